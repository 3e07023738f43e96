"""Captions as alternative text inside image files; exiftool writes them.

The text is the property AltTextAccessibility of the IPTC Photo Metadata Standard 2021.1, in XMP:
`Iptc4xmpCore:AltTextAccessibility`. A file is replaced by a complete new one with equal pixels.
"""

from __future__ import annotations

import mmap
import os
import secrets
import shutil
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Self

from captioner.console import one_line
from captioner.data.images import MAX_PIXELS, image_errors, open_file, open_image, read_image
from captioner.data.lists import ImageItem
from captioner.errors import (
    CaptionerError,
    MissingPackageError,
    UsageError,
    first_few,
    parameter,
)
from captioner.results.sidecars import (
    CHOICES,
    Existing,
    NotWrittenError,
    local_file,
    write_error,
)
from captioner.storage import atomic_binary_file

PROPERTY = "XMP-iptcCore:AltTextAccessibility"
SUFFIXES = {
    **{"JPEG": ".jpg", "MPO": ".jpg", "PNG": ".png", "WEBP": ".webp", "GIF": ".gif"},
    **{"TIFF": ".tif", "AVIF": ".avif", "HEIF": ".heic", "JPEG2000": ".jp2"},
}
"""Of the formats that exiftool writes XMP to; it goes by the suffix, which can be wrong."""


class ExifTool:
    """A running exiftool, which takes one command after the other.

    Its arguments are lines on its stdin, and it works in a folder of its own: no argument depends
    on a name of the user's, nor on a caption.
    """

    def __init__(self, folder: Path) -> None:
        """Start exiftool in a folder.

        Raises:
            MissingPackageError: exiftool is not installed.
        """
        # If this process is killed, exiftool would wait for its next command for ever.
        guard = [path, "--pdeathsig", "TERM"] if (path := shutil.which("setpriv")) else []
        # -config "": the user's own settings of exiftool have no effect.
        command = [*guard, find_exiftool(), "-config", "", "-stay_open", "True", "-@", "-"]
        self.folder = folder
        self._process = subprocess.Popen(
            command,
            cwd=folder,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C ends it through `close`, not in the middle of a file
        )

    def run(self, *arguments: str) -> str:
        """Return what exiftool prints for some arguments, each without a line break.

        Raises:
            CaptionerError: exiftool has ended.
        """
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        number = secrets.randbelow(10**9)
        answer = b""
        with suppress(BrokenPipeError):
            stdin.write("\n".join([*arguments, f"-execute{number}", ""]).encode())
            stdin.flush()
            end = f"{{ready{number}}}\n".encode()
            for line in stdout:
                answer += line
                if answer.endswith(end):
                    return answer[: -len(end)].decode(errors="replace")
        raise CaptionerError(f"exiftool has ended: {one_line(answer.decode(errors='replace'))}")

    def close(self) -> None:
        """End exiftool."""
        with suppress(BrokenPipeError, subprocess.TimeoutExpired):
            self._process.communicate(b"-stay_open\nFalse\n", timeout=10)
        self._process.kill()
        self._process.wait()


def find_exiftool() -> str:
    """Return the path of exiftool.

    Raises:
        MissingPackageError: it is not installed.
    """
    path = shutil.which("exiftool")
    if path is None:
        raise MissingPackageError(
            f"{parameter('xmp')} needs exiftool, which is not installed: install "
            "libimage-exiftool-perl (Debian, Ubuntu), perl-Image-ExifTool (Fedora) or exiftool "
            "(Homebrew)"
        )
    return path


class AltTexts:
    """Writes captions into image files. It is a context manager: exiftool runs within."""

    def __init__(self, *, existing: Existing = "error") -> None:
        """Write alternative texts; `existing` is what happens to one that is in the file already.

        Raises:
            MissingPackageError: exiftool is not installed.
        """
        find_exiftool()
        self.existing = existing
        self._folder = TemporaryDirectory(prefix="captioner-")
        self._exiftool: ExifTool | None = None

    def check(self, items: Sequence[ImageItem], *, may_exist: bool = False) -> None:
        """Raise an error, before these images are captioned, if some cannot be or have a text.

        Args:
            items: the images, or some of them.
            may_exist: whether they may have a text whatever `existing` is.

        Raises:
            UsageError: one is no file here; or one has a text and `existing` is "error".
        """
        files = [local_file(item) for item in items]
        if self.existing != "error" or may_exist:
            return
        if exist := [one_line(file) for file in files if has_alt_text(file)]:
            raise UsageError(
                f"{len(exist):,} of {len(files):,} images have an alternative text already "
                f"({first_few(exist)}): choose {CHOICES}"
            )

    def wants(self, item: ImageItem) -> bool:
        """Return whether an image is to be captioned."""
        return self.existing != "skip" or not has_alt_text(local_file(item))

    def add(self, item: ImageItem, captions: Sequence[str]) -> None:
        """Write the best of the captions, if there is one, into the file of an image.

        Raises:
            NotWrittenError: this file cannot be written.
            CaptionerError: none can be written: the disk is full.
        """
        if not captions:
            return
        path = local_file(item)
        try:
            before = _writable_status(path)
            copy = Path(self._folder.name, f"image{_suffix(path)}")
            shutil.copyfile(path, copy)
            if not self._write(path, copy, captions[0]):
                return
            _check_pixels(path, copy)
            after = path.stat()
            if (after.st_mtime_ns, after.st_size) != (before.st_mtime_ns, before.st_size):
                raise NotWrittenError(str(path), "was changed by another program meanwhile")
            _replace(path, copy, before)
        except (OSError, CaptionerError) as error:
            raise write_error(path, error) from None

    def _write(self, path: Path, copy: Path, text: str) -> bool:
        """Write a text into the copy of a file, and return whether it is to replace the file."""
        if self._exiftool is None:
            self._exiftool = ExifTool(copy.parent)
        earlier = self._exiftool.run("-q", "-q", "-s3", "-b", f"-{PROPERTY}", copy.name)
        if earlier and self.existing in ("error", "skip"):
            if self.existing == "skip":
                return False
            raise NotWrittenError(str(path), f"has an alternative text already: choose {CHOICES}")
        if earlier and self.existing == "append":
            text = f"{earlier}\n{text}"
        # In a file: no character of it means anything to exiftool there.
        (copy.parent / "text").write_text(text, encoding="utf-8")
        answer = self._exiftool.run("-overwrite_original", f"-{PROPERTY}<=text", copy.name)
        if "1 image files updated" not in answer and "1 image files unchanged" not in answer:
            reason = answer.strip().splitlines()[0] if answer.strip() else "no answer"
            reason = reason.removeprefix("Error: ").removesuffix(f" - {copy.name}")
            raise NotWrittenError(str(path), f"exiftool cannot write it: {one_line(reason)}")
        return True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        if self._exiftool is not None:
            self._exiftool.close()
        self._folder.cleanup()


def has_alt_text(image: Path) -> bool:
    """Return whether a file names the property, without parsing it; False if it cannot be read.

    A PNG file can hold XMP compressed: exiftool finds that before anything is written.
    """
    try:
        with (
            image.open("rb") as file,
            mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content,
        ):
            return content.find(PROPERTY.partition(":")[2].encode()) >= 0
    except (OSError, ValueError):  # ValueError: an empty file
        return False


def _writable_status(path: Path) -> os.stat_result:
    """Return the status of a file that may be replaced.

    Raises:
        NotWrittenError: it is a link, or read-only.
    """
    if path.is_symlink():
        raise NotWrittenError(str(path), f"is a link, which {parameter('xmp')} does not replace")
    status = path.stat()
    if not status.st_mode & 0o222 or not os.access(path, os.W_OK):
        raise NotWrittenError(str(path), "is read-only")
    return status


def _suffix(path: Path) -> str:
    with image_errors(path), open_file(path) as file:
        kind = open_image(file, MAX_PIXELS).format or "?"
    if kind not in SUFFIXES:
        raise NotWrittenError(str(path), f"exiftool writes no XMP to {kind} files")
    return SUFFIXES[kind]


def _check_pixels(path: Path, copy: Path) -> None:
    """Raise an error unless both files have the same pixels."""
    original, new = read_image(path), read_image(copy)
    if original.size != new.size or original.tobytes() != new.tobytes():
        raise NotWrittenError(str(path), "exiftool has changed its pixels: it is left as it was")


def _replace(path: Path, copy: Path, status: os.stat_result) -> None:
    """Replace a file, and keep its permissions and owner; its time is now."""
    with atomic_binary_file(path) as file:
        file.write(copy.read_bytes())
        with suppress(OSError):
            os.chown(file.name, status.st_uid, status.st_gid)
        shutil.copystat(path, file.name)
        os.utime(file.name)
