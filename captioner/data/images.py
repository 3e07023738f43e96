"""Read any image file safely as an upright RGB image, and find the image files in folders."""

from __future__ import annotations

import errno
import glob
import io
import os
import stat
import struct
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, NamedTuple, TypeVar, cast

from PIL import Image

from captioner.errors import ImageError, UsageError

MAX_PIXELS = 50_000_000

# Some plugins check the size themselves. Their warning would repeat what `_check_size` reports.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "HEIF", "JPEG2000", "PPM")
"""Formats that are read. Others start programs (EPS), hide their size (ICO) or lack a signature."""

SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".jp2", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff"),
    *(".avif", ".heic", ".heif", ".ppm", ".pgm", ".pbm", ".pnm"),
)
"""File name suffixes that `find_images` looks for in folders."""

OTHER_FILE_TYPES = (
    (b"<!doctype html", "an HTML page"),
    (b"<html", "an HTML page"),
    (b"<svg", "an SVG drawing"),
    (b"<?xml", "an XML file"),
    (b"%pdf-", "a PDF document"),
    (b"version https://git-lfs", "a Git LFS pointer: fetch the file itself with `git lfs pull`"),
    (b"ftyphei", "a HEIC photo: convert it to JPEG"),
)
SIGNATURES = (b"\xff\xd8\xff", b"\x89PNG", b"GIF8", b"II*\0", b"MM\0*")  # of images

ORIENTATION = 0x0112  # the EXIF tag
TRANSPOSE_OF_ORIENTATION = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

ReadableImage = str | Path | bytes | Image.Image
"""A file, the bytes of a file, or a Pillow image."""


class _UnreadableError(Exception):
    """An image cannot be read. The message is the reason in the `ImageError`."""


def read_image(
    source: ReadableImage, *, min_side: int | None = None, max_pixels: int = MAX_PIXELS
) -> Image.Image:
    """Read the first frame of an image as a new upright 8-bit RGB image, with white transparency.

    A JPEG is decoded at 1/2, 1/4 or 1/8 of its size, which is several times faster, if its shortest
    side keeps `min_side` pixels. Images of more than `max_pixels` are not decoded.

    Raises:
        ImageError: the image cannot be read.
    """
    with _image_errors("image (bytes)" if isinstance(source, bytes) else source):
        if isinstance(source, Image.Image):
            _check_size(source, max_pixels)
            return _to_upright_rgb(source)
        with io.BytesIO(source) if isinstance(source, bytes) else _open_file(Path(source)) as file:
            image = _open_image(file, max_pixels)
            if min_side is not None:
                image.draft(None, (min_side, min_side))
            return _to_upright_rgb(image)


class Header(NamedTuple):
    """The header of an image file."""

    width: int  # in pixels, as stored: the EXIF orientation is not applied
    height: int
    mode: str  # Pillow's name of the pixel format: RGB, L, CMYK, ...


def read_header(path: Path, *, max_pixels: int = MAX_PIXELS) -> Header:
    """Read the size and mode of an image without decoding it.

    Raises:
        ImageError: the header cannot be read, or the image has more than `max_pixels`.
    """
    with _image_errors(path), _open_file(path) as file:
        image = _open_image(file, max_pixels)
        return Header(*image.size, image.mode)


@contextmanager
def _image_errors(source: str | Path | Image.Image) -> Iterator[None]:
    """Turn every exception into an `ImageError` that names the source."""
    try:
        yield
    except Exception as error:  # Pillow raises many types of exceptions on damaged files
        name = "image" if isinstance(source, Image.Image) else str(source)
        raise ImageError(name, _reason(error)) from error


def _open_file(path: Path) -> BinaryIO:
    status = path.stat()
    if stat.S_ISDIR(status.st_mode):
        raise IsADirectoryError(errno.EISDIR, "is a folder")
    if not stat.S_ISREG(status.st_mode):
        raise _UnreadableError("not a regular file")  # opening a pipe would block
    return path.open("rb")


def _open_image(file: BinaryIO, max_pixels: int) -> Image.Image:
    """Read the header of an image and check the size that it gives.

    This calls Pillow's format plugins as `Image.open` does, but without its size check, which
    warns through the warning filters of the whole process; changing those is not thread-safe.
    """
    head = file.read(512)
    if not head:
        raise _UnreadableError("is empty (0 bytes)")
    Image.init()
    available = [name for name in FORMATS if name in Image.OPEN]
    for name in available:
        plugin, accepts = Image.OPEN[name]
        try:
            accepted = accepts is None or accepts(head[:16])
            if accepted and not isinstance(accepted, str):  # a string: no decoder is installed
                file.seek(0)
                image = plugin(file, "")
                _check_size(image, max_pixels)
                return image
        except (SyntaxError, IndexError, TypeError, struct.error):
            continue  # the file has another format, or is damaged
    raise _UnreadableError(_describe_unidentified(head, available))


def _describe_unidentified(head: bytes, available: list[str]) -> str:
    if head.startswith(SIGNATURES) or head[8:12] == b"WEBP":
        return "truncated or corrupt: it starts like an image, but cannot be read as one"
    for mark, file_type in OTHER_FILE_TYPES:
        if mark in head.lower():
            return f"not an image (looks like {file_type})"
    return f"not an image in a supported format ({', '.join(available)})"


def _check_size(image: Image.Image, max_pixels: int) -> None:
    width, height = image.size
    if not width * height:
        raise _UnreadableError(f"has no pixels ({width} x {height})")
    if width * height > max_pixels:
        raise _UnreadableError(
            f"too large: {width:,} x {height:,} pixels, the limit is {max_pixels:,} in all"
        )


def _to_upright_rgb(image: Image.Image) -> Image.Image:
    image.load()
    transpose = _read_transpose(image)
    if image.mode == "F" or image.mode.startswith("I"):
        image = _to_8_bits(image)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        rgb = Image.new("RGB", image.size, "white")
        rgb.paste(image, mask=image)
    else:
        rgb = image.convert("RGB")
    rgb.info.clear()  # it holds the EXIF orientation, which must not be applied twice
    return rgb if transpose is None else rgb.transpose(transpose)


def _read_transpose(image: Image.Image) -> Image.Transpose | None:
    try:
        return TRANSPOSE_OF_ORIENTATION.get(image.getexif().get(ORIENTATION, 1))
    except Exception:  # the image itself is fine if its EXIF block is damaged
        return None


def _to_8_bits(image: Image.Image) -> Image.Image:
    """Scale 16-bit, 32-bit and floating-point grey to 0..255, from the range most likely meant.

    16-bit: 0..65535. Others: 0..1 (float), 0..255 or 0..65535 (integer), if all values are in that
    range; otherwise from the smallest to the largest value.
    """
    values = image.convert("F")
    low, high = cast(tuple[float, float], values.getextrema())  # one band
    fits_16_bits = image.mode == "I" and low >= 0 and 255 < high <= 65535
    if fits_16_bits or image.mode.startswith("I;16"):
        low, high = 0.0, 65535.0
    elif low >= 0 and high <= 255:
        low, high = 0.0, 1.0 if image.mode == "F" and high <= 1 else 255.0
    if not high - low < float("inf"):
        raise _UnreadableError("holds values that are not finite numbers")
    scale = 255 / ((high - low) or 1)
    grey = values.point(lambda value: value * scale + (0.5 - low * scale)).convert("L")
    grey.info.pop("transparency", None)  # a value of the original range
    return grey


def _reason(error: Exception) -> str:
    """Return why an image cannot be read, in a few words on one line."""
    message = " ".join(str(error).split())
    match error:
        case _UnreadableError():
            return message
        case FileNotFoundError():
            return "no such file"
        case IsADirectoryError():
            return "is a folder, not an image"
        case MemoryError():
            return "not enough memory"
        case Image.DecompressionBombError():
            return f"too large: the limit is {MAX_PIXELS:,} pixels"
        case OSError(strerror=str(strerror)):
            return strerror.lower()
    if isinstance(error, EOFError) or "truncated" in message.lower():
        return "truncated: the file ends too early"
    return f"corrupt, or in a variant that is not supported ({message or type(error).__name__})"


def find_images(paths: Iterable[str]) -> list[Path]:
    """Expand files, folders and globs into image files, without repetitions.

    Folders are searched recursively, in sorted order, without hidden files. A file that is named is
    kept whatever its suffix is; folders and globs yield files with a suffix of an image.

    Raises:
        UsageError: a path does not exist, cannot be listed, or contains no image.
    """
    images: dict[str, Path] = {}
    for path in paths:
        for image in _expand(path):
            images.setdefault(os.path.abspath(image), image)
    return list(images.values())


def _expand(path: str) -> list[Path]:
    if os.path.isdir(path):
        images = sorted(_walk(path))
        if not images:
            raise UsageError(f"{path}: no images (*.jpg, *.png, ...) in this folder or below it")
        return images
    if os.path.exists(path):
        return [Path(path)]
    matches = sorted(Path(match) for match in glob.glob(path, recursive=True))
    images = [match for match in matches if match.suffix.lower() in SUFFIXES and match.is_file()]
    if not images:
        raise UsageError(
            f"{path}: {'no image matches' if glob.has_magic(path) else 'no such file or folder'}"
        )
    return images


def _walk(folder: str) -> Iterator[Path]:
    def raise_usage_error(error: OSError) -> None:
        raise UsageError(
            f"{error.filename}: {(error.strerror or 'cannot be listed').lower()}"
        ) from error

    for parent, folders, files in os.walk(folder, onerror=raise_usage_error):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in files:
            if not name.startswith(".") and Path(name).suffix.lower() in SUFFIXES:
                yield Path(parent, name)


Item = TypeVar("Item")
Result = TypeVar("Result")

MAX_PENDING = 64


def map_ahead(
    function: Callable[[Item], Result], items: Iterable[Item], *, threads: int
) -> Iterator[Result]:
    """Map in threads, ahead of use: like `map`, in order, with up to 64 results pending."""
    with ThreadPoolExecutor(threads) as pool:
        pending: deque[Future[Result]] = deque()
        for item in items:
            pending.append(pool.submit(function, item))
            if len(pending) == MAX_PENDING:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
