"""Frames of animated images, at a regular distance in time, as of a film; Pillow decodes them."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from PIL import Image

from captioner.data.films import TOLERANCE, Frame, format_time, next_due
from captioner.data.images import MAX_PIXELS, image_errors, open_file, open_image
from captioner.data.pixels import check_size, to_upright_rgb
from captioner.errors import ImageError

FORMATS = ("GIF", "PNG", "WEBP", "AVIF")
"""Formats with animations. The further images of a TIFF or HEIC file are no later moments."""

SHORTEST, USUAL = 0.01, 0.1
"""Seconds. Browsers show a frame that asks for at most the first of these as long as the second."""


def is_animation(path: Path) -> bool:
    """Return whether a file is an image of several frames that follow each other in time."""
    with suppress(ImageError), image_errors(path), open_file(path) as file:
        image = open_image(file, MAX_PIXELS)
        return image.format in FORMATS and bool(getattr(image, "is_animated", False))
    return False


class Animation:
    """The frames of an animation, as `captioner.data.films.Film` gives those of a film."""

    def __init__(self, path: Path, *, every: float, max_pixels: int = MAX_PIXELS) -> None:
        """Read a frame each `every` seconds; an image of more than `max_pixels` is not decoded."""
        self.path = path
        self.every = every
        self.max_pixels = max_pixels
        self.end = 0.0  # in seconds: where what has been read so far ends

    def __iter__(self) -> Iterator[Frame]:
        """Yield the frames: the first, and the first at or after each later multiple of `every`.

        Raises:
            ImageError: the file cannot be read, or not from some time on. The frames that can be
                read come first.
        """
        self.end, next_time = 0.0, -math.inf
        with image_errors(self.path):
            file = open_file(self.path)
        with file:
            with image_errors(self.path):
                image = open_image(file, self.max_pixels)
            # The image of an APNG file for programs without animations need not be a frame.
            number = 1 if image.info.get("default_image") else 0
            while self._seek(image, number):
                time, is_due = self.end, self.end >= next_time - TOLERANCE
                frame = self._read(image, is_due=is_due)
                if frame is not None:
                    next_time = next_due(time, self.every)
                    yield Frame(time, frame)
                number += 1

    def _seek(self, image: Image.Image, number: int) -> bool:
        """Go to a frame, and return whether there is one."""
        # A GIF file does not say how many frames it has.
        if image.format != "GIF" and number >= getattr(image, "n_frames", 1):
            return False
        with self._errors():
            try:
                image.seek(number)
            except EOFError:
                if image.format == "GIF":
                    return False
                raise
        return True

    def _read(self, image: Image.Image, *, is_due: bool) -> Image.Image | None:
        """Read the frame, add its length to the time, and return it if it is due."""
        with self._errors():
            check_size(*image.size, self.max_pixels)
            image.load()
            length = float(image.info.get("duration") or 0) / 1000  # of milliseconds
            frame = to_upright_rgb(image) if is_due else None
        self.end += length if length > SHORTEST else USUAL
        return frame

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """Turn an exception into an `ImageError` that names the time."""
        try:
            with image_errors(self.path):
                yield
        except ImageError as error:
            reason = f"breaks at {format_time(self.end)} ({error.reason})"
            raise ImageError(os.fspath(self.path), reason) from error
