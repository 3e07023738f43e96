"""Any image file → an upright RGB picture, safely; and which files an argument means. Knows Pillow, no tensors."""

from __future__ import annotations

import errno
import glob
import io
import os
import re
import stat
import threading
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, NamedTuple, TypeVar, cast

from PIL import Image, UnidentifiedImageError

from captioner.errors import ImageError, UsageError

MAX_PIXELS = 50_000_000

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "HEIF", "JPEG2000", "PPM")
"""Pillow's names of what is read. Others start programs (EPS), hide their size (ICO) or have no signature (TGA)."""

SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".jp2", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff"),
    *(".avif", ".heic", ".heif", ".ppm", ".pgm", ".pbm", ".pnm"),
)
"""What `find_images` takes for an image in a folder."""

LOOKS = (
    (b"<!doctype html", "an HTML page"),
    (b"<html", "an HTML page"),
    (b"<svg", "an SVG drawing"),
    (b"<?xml", "an XML file"),
    (b"%pdf-", "a PDF document"),
    (b"version https://git-lfs", "a Git LFS pointer: fetch the file itself with `git lfs pull`"),
    (b"ftyphei", "a HEIC photo: convert it to JPEG"),
)
SIGNATURES = (b"\xff\xd8\xff", b"\x89PNG", b"GIF8", b"II*\0", b"MM\0*")

ORIENTATION = 0x0112  # the EXIF tag
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

ImageLike = str | Path | bytes | Image.Image

_opening = threading.Lock()


class _UnreadableError(Exception):
    """Its text is the reason, ready to be shown."""


def read_image(
    source: ImageLike, *, at_least: int | None = None, max_pixels: int = MAX_PIXELS
) -> Image.Image:
    """Read any image as a new 8-bit RGB picture, upright, on white where it is transparent; the first of its frames.

    `at_least` is the shortest side (pixels) that the caller needs: a larger JPEG is then decoded at 1/2, 1/4 or 1/8 of
    its size, never smaller than that, which is several times faster for photos straight from a camera.

    Raises:
        ImageError: whatever is wrong with it. One of more than `max_pixels` is refused before it is decoded.
    """
    name = (
        "image"
        if isinstance(source, Image.Image)
        else "image (bytes)"
        if isinstance(source, bytes)
        else str(source)
    )
    with _errors_named(name):
        if isinstance(source, Image.Image):
            _check_size(source, max_pixels)
            return _upright(source)
        with io.BytesIO(source) if isinstance(source, bytes) else _open_file(Path(source)) as file:
            picture = _identify(file, max_pixels)
            if at_least is not None:
                picture.draft(None, (at_least, at_least))
            return _upright(picture)


class Header(NamedTuple):
    """What an image file says of itself before its pixels."""

    width: int  # in pixels, as stored: not yet turned upright
    height: int
    mode: str  # Pillow's name of the kind of pixel: RGB, L, CMYK, ...


def read_header(path: Path, *, max_pixels: int = MAX_PIXELS) -> Header:
    """Read an image's size and mode, and decode nothing.

    Raises:
        ImageError: as `read_image`, as far as the header shows it.
    """
    with _errors_named(str(path)), _open_file(path) as file:
        picture = _identify(file, max_pixels)
        return Header(*picture.size, picture.mode)


@contextmanager
def _errors_named(name: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # on hostile bytes Pillow throws whatever its parsers stumble over
        raise ImageError(name, _reason(error)) from error


def _open_file(path: Path) -> BinaryIO:
    status = path.stat()
    if stat.S_ISDIR(status.st_mode):
        raise IsADirectoryError(errno.EISDIR, "is a folder")
    if not stat.S_ISREG(status.st_mode):
        raise _UnreadableError("not a regular file")  # opening a pipe would wait for ever
    return path.open("rb")


def _identify(file: BinaryIO, max_pixels: int) -> Image.Image:
    """Read the header, and refuse by its size. Pillow has limits as well: it warns from 89 Mpx, and throws from 179."""
    head = file.read(512)
    if not head:
        raise _UnreadableError("is empty (0 bytes)")
    Image.init()
    formats = [name for name in FORMATS if name in Image.OPEN]
    try:
        with (
            _opening,
            warnings.catch_warnings(),
        ):  # the filters belong to the whole process: one thread at a time
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            picture = Image.open(file, formats=formats)
    except Image.DecompressionBombError as error:
        pixels = int(re.findall(r"\d+", str(error))[0])
        raise _UnreadableError(
            f"too large: {pixels:,} pixels, the limit is {max_pixels:,}"
        ) from error
    except UnidentifiedImageError:
        raise _UnreadableError(_what_else(head, formats)) from None
    _check_size(picture, max_pixels)
    return picture


def _what_else(head: bytes, formats: list[str]) -> str:
    if head.startswith(SIGNATURES) or head[8:12] == b"WEBP":
        return "truncated or corrupt: it begins like an image, but cannot be read as one"
    for mark, look in LOOKS:
        if mark in head.lower():
            return f"not an image (looks like {look})"
    return f"not an image in a format that is read here ({', '.join(formats)})"


def _check_size(picture: Image.Image, max_pixels: int) -> None:
    width, height = picture.size
    if not width * height:
        raise _UnreadableError(f"has no pixels ({width} x {height})")
    if width * height > max_pixels:
        raise _UnreadableError(
            f"too large: {width:,} x {height:,} pixels, the limit is {max_pixels:,} in all"
        )


def _upright(picture: Image.Image) -> Image.Image:
    picture.load()
    turn = _turn(picture)
    if picture.mode == "F" or picture.mode.startswith("I"):
        picture = _eight_bits(picture)
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        rgb = Image.new("RGB", picture.size, "white")
        rgb.paste(picture, mask=picture)
    else:
        rgb = picture.convert("RGB")
    rgb.info.clear()  # or somebody else would turn it once more
    return rgb if turn is None else rgb.transpose(turn)


def _turn(picture: Image.Image) -> Image.Transpose | None:
    try:
        return UPRIGHT.get(picture.getexif().get(ORIENTATION, 1))
    except Exception:  # a broken EXIF block spoils no picture
        return None


def _eight_bits(picture: Image.Image) -> Image.Image:
    """Scale 16-bit, 32-bit and floating-point grey to 0..255, from the range that its values are most likely meant in.

    16-bit: all of its range. Others: 0..1 (float), 0..255 or 0..65535 (integer), where they fit; else what they span.
    """
    values = picture.convert("F")
    low, high = cast(tuple[float, float], values.getextrema())  # one band
    if picture.mode.startswith("I;16") or (
        picture.mode == "I" and low >= 0 and 255 < high <= 65535
    ):
        low, high = 0.0, 65535.0
    elif low >= 0 and high <= 255:
        low, high = 0.0, 1.0 if picture.mode == "F" and high <= 1 else 255.0
    if not high - low < float("inf"):
        raise _UnreadableError("holds values that are not finite numbers")
    scale = 255 / ((high - low) or 1)
    grey = values.point(lambda value: value * scale + (0.5 - low * scale)).convert("L")
    grey.info.pop("transparency", None)  # it names a value of the old range
    return grey


def _reason(error: Exception) -> str:
    """Say in a few words, on one line, why an image cannot be read."""
    message = " ".join(str(error).split())
    match error:
        case _UnreadableError():
            return message
        case FileNotFoundError():
            return "no such file"
        case IsADirectoryError():
            return "is a folder, not an image"
        case PermissionError():
            return "permission denied"
        case MemoryError():
            return "needs more memory than there is"
        case Image.DecompressionBombError():
            return f"too large: {message}"
        case OSError(strerror=str(strerror)):
            return strerror.lower()
    if isinstance(error, EOFError) or "truncated" in message.lower():
        return "truncated: the file ends too early"
    return f"corrupt, or of a kind that cannot be read ({message or type(error).__name__})"


def find_images(paths: Iterable[str]) -> list[Path]:
    """Expand files, folders (with all below, sorted, nothing hidden) and globs into image files, each once.

    A file that is named is kept whatever its suffix; folders and globs give files with an image's suffix.

    Raises:
        UsageError: something does not exist, cannot be listed, or holds no image.
    """
    found: dict[str, Path] = {}
    for path in paths:
        for image in _expand(path):
            found.setdefault(os.path.abspath(image), image)
    return list(found.values())


def _expand(path: str) -> list[Path]:
    if os.path.isdir(path):
        images = sorted(_walk(path))
        if not images:
            raise UsageError(
                f"{path}: no image in this folder, or below it (names that end in .jpg, .png, .webp, ...)"
            )
        return images
    if os.path.exists(path):
        return [Path(path)]
    matches = sorted(Path(match) for match in glob.glob(path, recursive=True))
    images = [match for match in matches if match.suffix.lower() in SUFFIXES and match.is_file()]
    if not images:
        raise UsageError(
            f"{path}: no image matches"
            if glob.has_magic(path)
            else f"{path}: no such file or folder"
        )
    return images


def _walk(folder: str) -> Iterator[Path]:
    def refuse(error: OSError) -> None:
        raise UsageError(
            f"{error.filename}: {(error.strerror or 'cannot be listed').lower()}"
        ) from error

    for parent, folders, files in os.walk(folder, onerror=refuse):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in files:
            if not name.startswith(".") and Path(name).suffix.lower() in SUFFIXES:
                yield Path(parent, name)


Thing = TypeVar("Thing")
Result = TypeVar("Result")

AHEAD = 64


def map_ahead(
    function: Callable[[Thing], Result], things: Iterable[Thing], *, threads: int
) -> Iterator[Result]:
    """As `map`, in order, but in threads and ahead of use: up to 64 results wait, however many things there are."""
    with ThreadPoolExecutor(threads) as pool:
        waiting: deque[Future[Result]] = deque()
        for thing in things:
            waiting.append(pool.submit(function, thing))
            if len(waiting) == AHEAD:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
