"""Files and folders that are whole or not there at all; folders also notice when a byte of theirs has changed."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from captioner.errors import CaptionerError, UsageError

_MIB = 2**20


def free_space(path: Path) -> int:
    """Give the MiB that are free where `path` is, or would be."""
    there = next(
        folder for folder in (path.absolute(), *path.absolute().parents) if folder.exists()
    )
    return shutil.disk_usage(there).free // _MIB


def check_space(folder: Path, needed: int, *, what: str, way_out: str) -> None:
    """Make sure, before any work is done for it, that `needed` bytes find room.

    Raises:
        CaptionerError: they do not.
    """
    if needed // _MIB > free_space(folder):
        raise CaptionerError(
            f"{folder}: {what} take {needed // _MIB:,} MiB, and {free_space(folder):,} are free: "
            f"free some space, choose another --output, or {way_out}"
        )


def size_of(folder: Path) -> int:
    """Give the bytes of a folder's files."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


CHECKSUMS = "checksums.json"
_UNFINISHED, _REPLACED = ".tmp", ".old"


@contextmanager
def new_file(path: Path) -> Iterator[TextIO]:
    """Give a file to write text into, which takes the name `path` when the block ends well, in place of what had it.

    Who reads `path` meanwhile, or after a crash, finds the old file or the new.

    Raises:
        CaptionerError: its folder is missing or read-only, or the disk is full; nothing is left behind.
    """
    unfinished = path.with_name(f".{path.name}.{os.getpid()}{_UNFINISHED}")
    try:
        with unfinished.open("w", encoding="utf-8") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(path)
    except OSError as error:
        reason = error.strerror or error
        raise CaptionerError(
            f"{path} cannot be written: {reason}; check its folder and free space"
        ) from error
    finally:
        with contextlib.suppress(OSError):  # gone already when all went well
            unfinished.unlink()


def check_new_file(path: Path) -> None:
    """Make sure, before any work is done for it, that a file can be written.

    Raises:
        UsageError: its folder is missing or read-only, or a folder has its name.
    """
    if path.is_dir():
        raise UsageError(f"{path} is a folder: name a file")
    if not path.parent.is_dir():
        raise UsageError(f"{path}: there is no folder {path.parent}; create it first")
    if not os.access(path.parent, os.W_OK):
        raise UsageError(f"{path}: nothing may be written in {path.parent}; choose another folder")


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Give a folder to write into, which takes the name `path` when the block ends well, in place of what had it.

    Files are flushed to the disk and their SHA-256 noted before the renaming, so that a crash at any moment leaves
    either the old folder or the new one; `sweep` mends what a crash left behind.

    Raises:
        CaptionerError: the disk is full or read-only; what was there before is kept.
    """
    unfinished = path.with_name(path.name + _UNFINISHED)
    replaced = path.with_name(path.name + _REPLACED)
    try:
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(parents=True)
        yield unfinished
        _seal(unfinished)
        if path.exists():
            path.rename(replaced)
        unfinished.rename(path)
        shutil.rmtree(replaced, ignore_errors=True)
    except OSError as error:
        if replaced.exists() and not path.exists():
            replaced.rename(path)
        raise CaptionerError(
            f"{path} cannot be written: {error.strerror or error} ({free_space(path)} MiB free): "
            "free some space or choose another folder; what was saved before is untouched"
        ) from None
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def sweep(folder: Path) -> None:
    """Remove what a crash left half-written in `folder`, and put back what was about to be replaced."""
    for replaced in folder.glob("*" + _REPLACED):
        whole = replaced.with_name(replaced.name.removesuffix(_REPLACED))
        if whole.exists():
            shutil.rmtree(replaced, ignore_errors=True)
        else:
            replaced.rename(whole)
    for unfinished in folder.glob("*" + _UNFINISHED):
        shutil.rmtree(unfinished, ignore_errors=True)


def verify(folder: Path) -> None:
    """Compare every file with its checksum.

    Raises:
        CaptionerError: names the file that is missing or has changed.
    """
    try:
        expected = json.loads((folder / CHECKSUMS).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CaptionerError(
            f"{folder} has no readable {CHECKSUMS} ({error}): it was not saved by captioner"
        ) from None
    for name, digest in expected.items():
        if not (folder / name).is_file():
            raise CaptionerError(f"{folder / name} is missing: copy the whole folder again")
        if _sha256(folder / name) != digest:
            raise CaptionerError(
                f"{folder / name} is corrupt (its SHA-256 has changed): copy the whole folder again"
            )


def _seal(folder: Path) -> None:
    files = [file for file in sorted(folder.iterdir()) if file.is_file() and file.suffix != ".md"]
    sums = {
        file.name: _sha256(file) for file in files if file.name != CHECKSUMS
    }  # a model card is people's to edit
    (folder / CHECKSUMS).write_text(json.dumps(sums, indent=2), encoding="utf-8")
    for file in folder.iterdir():
        _flush(file)
    with contextlib.suppress(OSError):  # some file systems cannot flush a folder
        _flush(folder)


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
