"""Transforms from an RGB image to a square uint8 array; the encoder normalises its values.

Each transform crops and resizes in one call of Pillow's antialiased bilinear filter, which the
pretrained weights of torchvision were trained with. Random numbers come from the given generator.
Nothing here imports torch: `torch.from_numpy` makes a tensor of a result without a copy.
"""

from __future__ import annotations

import math
import os
import random
from collections.abc import Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, assert_never

import numpy as np
from PIL import Image, ImageEnhance

from captioner.data import arrays  # noqa: F401  before a thread does: see `captioner.data.images`
from captioner.data.images import MAX_PIXELS, ReadableImage, image_errors, read_image
from captioner.data.streaming import batches_as_ready
from captioner.errors import ImageError

if TYPE_CHECKING:  # it imports pydantic
    from captioner.config.schema import AugmentationName, TransformName

Box = tuple[float, float, float, float]
"""Left, top, right, bottom, in pixels of the source image, not rounded."""


@dataclass(frozen=True)
class Squash:
    """Resize the whole image to a square, whatever its aspect ratio is."""

    size: int

    def __call__(self, image: Image.Image, rng: random.Random) -> np.ndarray:
        """Return the image (3, size, size), uint8; `rng` is not used."""
        return _to_array(_resize(image, (0, 0, *image.size), self.size))


@dataclass(frozen=True)
class CentreCrop:
    """Crop the central square of 7/8 of the short side, as in ImageNet tests (224 of 256)."""

    size: int

    def __call__(self, image: Image.Image, rng: random.Random) -> np.ndarray:
        """Return the image (3, size, size), uint8; `rng` is not used."""
        side = min(image.size) * 7 / 8
        return _to_array(_resize(image, _crop_box(image, side, side, 0.5, 0.5), self.size))


@dataclass(frozen=True)
class RandomResizedCrop:
    """Resize a random crop to a square and mirror half of them (Szegedy et al. 2015)."""

    size: int
    area: tuple[float, float]  # of the crop, as a share of the image's area; uniform
    ratio: tuple[float, float]  # width / height of the crop; uniform on a logarithmic scale
    jitter: float = 0.0  # largest change of brightness, contrast and saturation, as a share

    def __call__(self, image: Image.Image, rng: random.Random) -> np.ndarray:
        """Return the image (3, size, size), uint8."""
        crop = _resize(image, self._draw(image, rng), self.size)
        if rng.random() < 0.5:
            crop = crop.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        if self.jitter:
            for enhance in (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color):
                crop = enhance(crop).enhance(rng.uniform(1 - self.jitter, 1 + self.jitter))
        return _to_array(crop)

    def _draw(self, image: Image.Image, rng: random.Random) -> Box:
        low, high = self.ratio
        for _ in range(10):
            area = image.width * image.height * rng.uniform(*self.area)
            ratio = math.exp(rng.uniform(math.log(low), math.log(high)))
            width, height = math.sqrt(area * ratio), math.sqrt(area / ratio)
            if width <= image.width and height <= image.height:
                return _crop_box(image, width, height, rng.random(), rng.random())
        # No crop fits into a very long image: take the largest with an allowed ratio.
        width, height = min(image.width, image.height * high), min(image.height, image.width / low)
        return _crop_box(image, width, height, rng.random(), rng.random())


Transform = Squash | CentreCrop | RandomResizedCrop
"""Turns an RGB image of any size into the input of the encoder."""


def build_transform(name: TransformName | AugmentationName, size: int) -> Transform:
    """Return the transform with this name, for squares of `size` pixels."""
    match name:
        case "squash":
            return Squash(size)
        case "crop":
            return CentreCrop(size)
        case "random_crop":
            return RandomResizedCrop(size, area=(0.08, 1.0), ratio=(3 / 4, 4 / 3))
        case "mild_crop":
            return RandomResizedCrop(size, area=(0.7, 1.0), ratio=(0.9, 1 / 0.9), jitter=0.2)
        case other:
            assert_never(other)


def _crop_box(image: Image.Image, width: float, height: float, x: float, y: float) -> Box:
    """Return the box of a crop; `x` and `y` in 0..1 run from left to right and top to bottom."""
    left, top = (image.width - width) * x, (image.height - height) * y
    # Rounding must not move the right and bottom edges out of the image.
    return left, top, min(left + width, image.width), min(top + height, image.height)


def _resize(image: Image.Image, box: Box, size: int) -> Image.Image:
    return image.resize((size, size), Image.Resampling.BILINEAR, box=box, reducing_gap=2.0)


def _to_array(image: Image.Image) -> np.ndarray:
    return np.asarray(image).transpose(2, 0, 1).copy()  # (3, size, size), contiguous, writable


def _shares_file(image: ReadableImage) -> bool:
    """Return whether other images may be in the same open file, as those of a tar archive are."""
    is_lazy = getattr(image, "fp", None) is not None  # a Pillow image without its pixels
    return hasattr(image, "read") or (is_lazy and not getattr(image, "filename", ""))


def read_pixels(
    image: ReadableImage, transform: Transform, *, max_pixels: int = MAX_PIXELS
) -> np.ndarray:
    """Read an image as the input of an encoder (3, size, size), uint8, for inference.

    Raises:
        ImageError: it cannot be read, or has more than `max_pixels`.
    """
    with image_errors(image):
        # Transforms for inference draw nothing from the generator.
        return transform(read_image(image, max_pixels=max_pixels), random.Random(0))


def prefetch_images(
    images: Iterable[ReadableImage], transform: Transform, *, size: int
) -> Generator[list[np.ndarray | ImageError], None, None]:
    """Yield up to `size` images (3, side, side) or errors at a time, read a batch ahead.

    A batch is smaller where images come late: see `batches_as_ready`. Paths, bytes and what is in
    a list, a tuple or an array of images are read in several threads; one object that occurs twice,
    as a Pillow image can, is not read by two at once.
    """
    all_exist = isinstance(images, list | tuple) or hasattr(images, "ndim")
    # of the objects that threads are to read
    unread: dict[int, Future[np.ndarray | ImageError]] = {}

    def read(image: ReadableImage) -> np.ndarray | ImageError:
        try:
            return read_pixels(image, transform)
        except ImageError as error:
            return error

    def start(image: ReadableImage) -> Future[np.ndarray | ImageError]:
        is_path_or_bytes = isinstance(image, str | os.PathLike | bytes)
        if not is_path_or_bytes and (not all_exist or _shares_file(image)):
            # It may be closed, or filled with the next image, when the next is asked for.
            done: Future[np.ndarray | ImageError] = Future()
            done.set_result(read(image))
            return done
        key = id(image)  # of no other object: the pool holds this one until it is read
        if (future := unread.get(key)) is None:
            future = unread[key] = pool.submit(read, image)
            future.add_done_callback(lambda _: unread.pop(key))
        return future

    pool = ThreadPoolExecutor(thread_name_prefix="read-image")
    try:
        with closing(batches_as_ready(images, size, start=start)) as batches:
            for batch in batches:
                yield [future.result() for future in batch]
    finally:
        pool.shutdown(cancel_futures=True)
