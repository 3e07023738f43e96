"""HEIC photographs, as phones take them; the package pillow-heif (libheif) decodes them.

The package is imported when the first HEIC file is met. Its plugin is not registered with Pillow:
what `Image.open` of the program around captioner reads stays the same.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from threading import Condition
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from PIL import Image

HEIF = "HEIF"
"""The format in lists of formats; HEIC is HEIF with pictures of the codec HEVC."""

BRANDS = b"ftyp"
"""Bytes 4 to 7 of a HEIF or AVIF file, and of films. Four bytes for each kind of content follow."""

HEIC_BRANDS = (
    *(b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs"),
    *(b"mif1", b"msf1"),  # of any codec
)
AVIF_BRANDS = (b"avif", b"avis")

Plugin = tuple[Callable[[Any, str], "Image.Image"], Callable[[bytes], bool | str] | None]
"""As in Pillow's `Image.OPEN`: opens a file; and says whether it would, by the first bytes."""


class _Work:
    """Lets a fork wait until no thread imports pillow-heif or decodes with it.

    A child that is forked meanwhile would wait for ever for the locks of the other threads, which
    it does not have: those of the import, and those inside libheif. Threads do not wait for each
    other.
    """

    def __init__(self) -> None:
        self._changed = Condition()
        self._num_active = 0  # threads at work; a thread enters once at a time
        self._num_forks = 0  # that wait: nobody enters before them
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(
                before=self._stop,
                after_in_parent=self._go_on,
                after_in_child=self._go_on_in_child,
            )

    def _stop(self) -> None:
        self._changed.acquire()  # held until the fork is done
        self._num_forks += 1
        while self._num_active:
            self._changed.wait()

    def _go_on(self) -> None:
        self._num_forks -= 1
        self._changed.notify_all()
        self._changed.release()

    def _go_on_in_child(self) -> None:
        self._num_forks = 1  # other threads that wait to fork are not here
        self._go_on()

    def __enter__(self) -> None:
        with self._changed:
            while self._num_forks:
                self._changed.wait()
            self._num_active += 1

    def __exit__(self, *error: object) -> None:
        with self._changed:
            self._num_active -= 1
            self._changed.notify_all()


_work = _Work()


def heif_plugin(head: bytes) -> Plugin | None:
    """Return what opens a HEIF file; None: it begins like no such file, or pillow-heif is missing.

    It reads the size from the header, and decodes when the pixels are asked for. libheif itself
    refuses pixels of another size than the header's before it decodes them. It applies the rotation
    in the file, and pillow-heif takes the one in EXIF and XMP away, which only repeats it.
    """
    if head[8:12] not in HEIC_BRANDS:
        return None
    with _work:
        if find_spec("pillow_heif") is None:
            return None
        opener: Any = import_module("pillow_heif.as_plugin").HeifImageFile

    def open_heif(file: object, name: str) -> Image.Image:
        with _work:
            image: Image.Image = opener(file, name)
        load = image.load

        def load_at_work() -> Any:
            with _work:
                return load()

        image.load = load_at_work  # type: ignore[method-assign]
        return image

    return open_heif, None


def describe_heif(head: bytes, available: list[str]) -> str | None:
    """Return why a HEIF or AVIF file cannot be read; None: it begins like no such file.

    Args:
        head: the first bytes, with `BRANDS` in its place.
        available: the formats that can be read.
    """
    size = int.from_bytes(head[:4], "big")  # of the box with the brands
    brands = {head[8:12], *(head[start : start + 4] for start in range(16, size, 4)[:100])}
    if brands & set(AVIF_BRANDS):
        name, codec, way_out = "AVIF", "an AVIF image", "pip install 'pillow>=11.3'"
    elif head[8:12] in HEIC_BRANDS:
        name, codec, way_out = HEIF, "a HEIC photo", "pip install pillow-heif"
    else:
        return None
    if name in available:
        return f"truncated or corrupt: it starts like {codec}, but cannot be read as one"
    return f"not an image that can be read here ({codec}: {way_out}, or convert it to JPEG)"
