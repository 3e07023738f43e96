"""Read any image file safely as an upright RGB image, and find the image files in folders."""

from __future__ import annotations

import errno
import glob
import hashlib
import io
import os
import re
import stat
import struct
import warnings
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple, Protocol, TypeAlias, cast

# Here, not with `Image.init()` in the thread that reads the first image: a child that is forked
# meanwhile would wait for ever for the locks of the imports.
from PIL import (  # noqa: F401
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    Jpeg2KImagePlugin,
    JpegImagePlugin,
    MpoImagePlugin,
    PngImagePlugin,
    PpmImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)

from captioner.data.heic import BRANDS, HEIF, Plugin, describe_heif, heif_plugin
from captioner.data.pixels import UnreadableError, check_size, to_upright_rgb
from captioner.errors import ImageError, UsageError
from captioner.storage import sha256

with suppress(ImportError):  # since Pillow 11.3
    from PIL import AvifImagePlugin  # noqa: F401

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

MAX_PIXELS = 50_000_000

# Some plugins check the size themselves. Their warning would repeat what `check_size` reports.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "JPEG2000", "PPM")
"""Formats that are read; for HEIC there is `captioner.data.heic`. Others start programs
(EPS), hide their size (ICO) or lack a signature."""

SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".jp2", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff"),
    *(".avif", ".heic", ".heif", ".hif", ".ppm", ".pgm", ".pbm", ".pnm"),
)
"""File name suffixes that `find_images` looks for in folders."""

OTHER_FILE_TYPES = (
    (b"<!doctype html", "an HTML page"),
    (b"<html", "an HTML page"),
    (b"<svg", "an SVG drawing"),
    (b"<?xml", "an XML file"),
    (b"%pdf-", "a PDF document"),
    (b"version https://git-lfs", "a Git LFS pointer: fetch the file itself with `git lfs pull`"),
)
SIGNATURES = (b"\xff\xd8\xff", b"\x89PNG", b"GIF8", b"II*\0", b"MM\0*")  # of images

OneImage: TypeAlias = (
    str | os.PathLike[str] | bytes | bytearray | memoryview | BinaryIO | Image.Image
)
"""A file, its content, or a Pillow image."""


class HasRead(Protocol):
    """What gives the content of a file when it is read, such as a member of a tar."""

    def read(self) -> bytes:
        """Return the content."""
        ...


ReadableImage: TypeAlias = "OneImage | HasRead | np.ndarray | Tensor"
"""What `read_image` reads."""

URL = re.compile(r"[a-z][a-z0-9+.-]+:/|data:[a-z]+/", re.IGNORECASE)  # pathlib makes // one /
MAX_NAME = 200  # characters of a name in a message: a string can be the content of a file


def read_image(
    source: ReadableImage, *, min_side: int | None = None, max_pixels: int = MAX_PIXELS
) -> Image.Image:
    """Read the first frame of an image as a new upright 8-bit RGB image, with white transparency.

    An image gives the same pixels in each form, except that arrays and tensors are taken as they
    are: in RGB, without the rotation that EXIF asks for.

    Args:
        source: the path of a file; its content as bytes, bytearray, memoryview or an open binary
            file, which is read from its start if it can seek; a Pillow image; or an array or a
            tensor, as `captioner.data.arrays.to_pillow` describes them.
        min_side: for thumbnails, never for what a model reads: decode a JPEG file at 1/2, 1/4 or
            1/8 of its size, several times faster, if its shortest side keeps this many pixels.
        max_pixels: images of more pixels are not decoded.

    Raises:
        ImageError: the image cannot be read.
    """
    with image_errors(source):
        if isinstance(source, Image.Image):
            check_size(*source.size, max_pixels)
            return to_upright_rgb(source)
        if hasattr(source, "dtype") and not isinstance(source, str | bytes):  # np.str_ has one
            from captioner.data.arrays import to_pillow

            return to_upright_rgb(to_pillow(cast(Any, source), max_pixels=max_pixels))
        with _open(source) as file:
            image = open_image(file, max_pixels)
            if min_side is not None:
                image.draft(None, (min_side, min_side))
            return to_upright_rgb(image)


def is_image(source: object) -> bool:
    """Return whether this is one image, or meant as one, rather than several."""
    if isinstance(source, str | os.PathLike | bytes | bytearray | memoryview | Image.Image):
        return True
    ndim = getattr(source, "ndim", None)
    if isinstance(ndim, int):
        kind = getattr(getattr(source, "dtype", None), "kind", None)
        are_paths = ndim == 1 and kind in ("O", "U", "T")  # objects, or one of the string types
        return ndim < 4 and not are_paths
    can_iterate = isinstance(source, Iterable) or hasattr(source, "__getitem__")  # a torch Dataset
    return hasattr(source, "read") or not can_iterate


class Header(NamedTuple):
    """The header of an image file."""

    width: int  # in pixels, as stored: the EXIF orientation is not applied
    height: int
    mode: str  # Pillow's name of the pixel format: RGB, L, CMYK, ...


def read_header(path: Path | HasRead, *, max_pixels: int = MAX_PIXELS) -> Header:
    """Read the size and mode of an image without decoding it.

    Raises:
        ImageError: the header cannot be read, or the image has more than `max_pixels`.
    """
    with image_errors(path), _open(path) as file:
        image = open_image(file, max_pixels)
        return Header(*image.size, image.mode)


def hash_image(path: Path | HasRead) -> str:
    """Return the SHA-256 of the content of an image file, in hexadecimal.

    Raises:
        OSError: it cannot be read; `image_errors` says of which image.
    """
    return sha256(path) if isinstance(path, Path) else hashlib.sha256(path.read()).hexdigest()


@contextmanager
def image_errors(source: object) -> Iterator[None]:
    """Turn every exception into an `ImageError` that names the source, but for those that stop."""
    try:
        yield
    except (ImageError, KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # of many types: some plugins raise no subclass of Exception
        raise ImageError(_name(source), _reason(error)) from error


def _name(source: object) -> str:
    if isinstance(source, Image.Image):
        return "image"
    name = source if isinstance(source, str | os.PathLike) else getattr(source, "name", None)
    try:
        text = os.fsdecode(cast(Any, name))
    except Exception:  # no name, or one of another type
        text = ""
    text = text or f"image ({type(source).__name__})"
    return text if len(text) <= MAX_NAME else f"{text[:MAX_NAME]}..."


def _open(source: object) -> BinaryIO:
    """Open a path, or the content of a file."""
    match source:
        case str() | os.PathLike():
            path = os.fsdecode(source)
            if not path:
                raise UnreadableError("the path is empty")
            if reason := reason_of_url(path):
                raise UnreadableError(reason)
            return open_file(Path(path))
        case bytes() | bytearray() | memoryview():
            return io.BytesIO(source)
    if not hasattr(source, "read"):
        raise UnreadableError(
            "expected a path, the bytes of an image file, an open binary file, a Pillow image, "
            "an array or a tensor"
        )
    if getattr(source, "closed", False):
        raise UnreadableError("the file is closed")
    if hasattr(source, "seekable") and source.seekable() and hasattr(source, "seek"):
        source.seek(0)
    content = source.read()
    if not isinstance(content, bytes | bytearray):
        raise UnreadableError("the file is not open in binary mode: use open(path, 'rb')")
    return io.BytesIO(content)


def reason_of_url(path: str) -> str | None:
    """Return why a path that is a URL cannot be read."""
    if not URL.match(path) or os.path.exists(path):
        return None
    if path.lower().startswith("file:"):
        return "is a URL: give the path of the file"
    return "is a URL: download it, and give the file or its bytes"


def open_file(path: Path) -> BinaryIO:
    """Open a regular file; its errors are for `image_errors`."""
    status = path.stat()
    if stat.S_ISDIR(status.st_mode):
        raise IsADirectoryError(errno.EISDIR, "is a folder")
    if not stat.S_ISREG(status.st_mode):
        raise UnreadableError("not a regular file")  # opening a pipe would block
    return path.open("rb")


def open_image(file: BinaryIO, max_pixels: int) -> Image.Image:
    """Read the header of an image and check the size that it gives; errors: see `image_errors`.

    This calls Pillow's format plugins as `Image.open` does, but without its size check, which
    warns through the warning filters of the whole process; changing those is not thread-safe.
    """
    head = file.read(512)
    if not head:
        raise UnreadableError("is empty (0 bytes)")
    plugins: dict[str, Plugin] = {name: Image.OPEN[name] for name in FORMATS if name in Image.OPEN}
    if head[4:8] == BRANDS and (heif := heif_plugin(head)):
        plugins[HEIF] = heif  # after AVIF, whose files can begin in the same way
    for plugin, accepts in plugins.values():
        try:
            accepted = accepts is None or accepts(head[:16])
            if accepted and not isinstance(accepted, str):  # a string: no decoder is installed
                file.seek(0)
                image = plugin(file, "")
                check_size(*image.size, max_pixels)
                return image
        except (SyntaxError, IndexError, TypeError, struct.error):
            continue  # the file has another format, or is damaged
    raise UnreadableError(_describe_unidentified(head, list(plugins)))


def _describe_unidentified(head: bytes, available: list[str]) -> str:
    if head.startswith(SIGNATURES) or head[8:12] == b"WEBP":
        return "truncated or corrupt: it starts like an image, but cannot be read as one"
    if head[4:8] == BRANDS and (reason := describe_heif(head, available)):
        return reason
    for mark, file_type in OTHER_FILE_TYPES:
        if mark in head.lower():
            return f"not an image (looks like {file_type})"
    return f"not an image in a supported format ({', '.join(available)})"


def _reason(error: BaseException) -> str:
    """Return why an image cannot be read, in a few words on one line."""
    message = " ".join(str(error).split())
    match error:
        case UnreadableError():
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


class FoundImages(NamedTuple):
    """The image files that `find_images` found."""

    files: list[Path]
    problems: list[str]  # a line for each path without images


def find_images(paths: Iterable[str], *, in_globs: Collection[str] = SUFFIXES) -> FoundImages:
    """Expand files, folders and globs into image files, without repetitions.

    Folders are searched recursively, in sorted order, without hidden files. A file that is named is
    kept whatever its suffix is; folders yield files with a suffix of an image, and globs those with
    a suffix of `in_globs`.

    Raises:
        UsageError: there is no image at all; the message has all problems.
    """
    images: dict[str, Path] = {}
    problems: list[str] = []
    for path in paths:
        for image in _expand(path, in_globs, problems):
            images.setdefault(os.path.abspath(image), image)
    if not images:
        raise UsageError("; ".join(problems) or "name an image file, a folder or a glob")
    return FoundImages(list(images.values()), problems)


def _expand(path: str, in_globs: Collection[str], problems: list[str]) -> list[Path]:
    """Return the images of a path, and add a line to `problems` for what cannot be had."""
    num_problems = len(problems)
    if os.path.isdir(path):
        images = sorted(_walk(path, problems))
        reason = "no images (*.jpg, *.png, ...) in this folder or below it"
    elif os.path.exists(path):
        return [Path(path)]  # reading it tells what is wrong with it
    elif is_url := reason_of_url(path):
        images, reason = [], is_url
    else:
        matches = sorted(Path(match) for match in glob.glob(path, recursive=True))
        images = [each for each in matches if each.suffix.lower() in in_globs and each.is_file()]
        reason = "no image matches" if glob.has_magic(path) else "no such file or folder"
    if not images and len(problems) == num_problems:
        problems.append(f"{path or repr(path)}: {reason}")
    return images


def _walk(folder: str, problems: list[str]) -> Iterator[Path]:
    def report(error: OSError) -> None:
        problems.append(f"{error.filename}: {(error.strerror or 'cannot be listed').lower()}")

    for parent, folders, files in os.walk(folder, onerror=report):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in files:
            if not name.startswith(".") and Path(name).suffix.lower() in SUFFIXES:
                yield Path(parent, name)
