"""Atomic files and folders, and checksums, which reveal a changed byte in a folder.

A reader of an atomic file or folder, also after a crash, finds the old one or the complete new one.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TextIO

from captioner.errors import CaptionerError, UsageError

CHECKSUMS = "checksums.json"
_UNFINISHED, _REPLACED = ".tmp", ".old"
_MIB = 2**20


def free_space(path: Path) -> int:
    """Return the free space in MiB on the disk of `path`, which need not exist yet."""
    parents = (path.absolute(), *path.absolute().parents)
    existing = next(folder for folder in parents if folder.exists())
    return shutil.disk_usage(existing).free // _MIB


def check_space(folder: Path, needed: int, *, what: str, hint: str) -> None:
    """Raise before any work is done if `needed` bytes do not fit on the disk of `folder`.

    Raises:
        CaptionerError: `what`, in the plural, does not fit; `hint` is another way out.
    """
    if needed // _MIB > free_space(folder):
        raise CaptionerError(
            f"{folder}: {what} take {needed // _MIB:,} MiB, and {free_space(folder):,} are free: "
            f"free some space, choose another output folder, or {hint}"
        )


def folder_size(folder: Path) -> int:
    """Return the size of all files in a folder, in bytes."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


@contextmanager
def atomic_file(path: Path) -> Iterator[TextIO]:
    """Yield a text file that is renamed to `path` when the block ends without an error.

    Raises:
        CaptionerError: the folder is missing or read-only, or the disk is full; nothing remains.
    """
    unfinished = path.with_name(f".{path.name}.{os.getpid()}{_UNFINISHED}")
    try:
        with unfinished.open("w", encoding="utf-8") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(path)
    except OSError as error:
        raise CaptionerError(
            f"{path} cannot be written: {error.strerror or error}; check its folder and free space"
        ) from error
    finally:
        with suppress(OSError):  # it exists only after an error
            unfinished.unlink()


def check_writable(path: Path) -> None:
    """Raise before any work is done if a file cannot be written.

    Raises:
        UsageError: its folder is missing or read-only, or `path` is a folder.
    """
    if path.is_dir():
        raise UsageError(f"{path} is a folder: name a file")
    if not path.parent.is_dir():
        raise UsageError(f"{path}: there is no folder {path.parent}; create it first")
    if not os.access(path.parent, os.W_OK):
        raise UsageError(f"{path}: the folder {path.parent} is read-only; choose another folder")


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Yield a folder that is renamed to `path` when the block ends without an error.

    Its files are flushed to the disk, and their checksums written, before the renaming. After a
    crash at any moment `recover_from_crash` restores either the old folder or the new one.

    Raises:
        CaptionerError: the disk is full or read-only; the old folder is kept.
    """
    unfinished = path.with_name(path.name + _UNFINISHED)
    replaced = path.with_name(path.name + _REPLACED)
    try:
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(parents=True)
        yield unfinished
        write_checksums(unfinished)
        _flush_all(unfinished)
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


def recover_from_crash(folder: Path) -> None:
    """Remove unfinished folders in `folder`, and restore those that were about to be replaced."""
    for replaced in folder.glob("*" + _REPLACED):
        current = replaced.with_name(replaced.name.removesuffix(_REPLACED))
        if current.exists():
            shutil.rmtree(replaced, ignore_errors=True)
        else:
            replaced.rename(current)
    for unfinished in folder.glob("*" + _UNFINISHED):
        shutil.rmtree(unfinished, ignore_errors=True)


def write_checksums(folder: Path) -> None:
    """Write the SHA-256 of each file, except of Markdown files, which people may edit."""
    checksums = {
        file.name: sha256(file)
        for file in sorted(folder.iterdir())
        if file.is_file() and file.suffix != ".md" and file.name != CHECKSUMS
    }
    (folder / CHECKSUMS).write_text(json.dumps(checksums, indent=2), encoding="utf-8")


def verify_checksums(folder: Path) -> None:
    """Compare every file with its checksum.

    Raises:
        CaptionerError: names the file that is missing or has changed.
    """
    try:
        expected = json.loads((folder / CHECKSUMS).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CaptionerError(
            f"{folder} has no readable {CHECKSUMS} ({error}): it was not saved by captioner, or "
            "only a part of it was copied; copy the whole folder again"
        ) from None
    for name, checksum in expected.items():
        if not (folder / name).is_file():
            raise CaptionerError(f"{folder / name} is missing: copy the whole folder again")
        if sha256(folder / name) != checksum:
            raise CaptionerError(
                f"{folder / name} is corrupt (its SHA-256 has changed): copy the whole folder again"
            )


def _flush_all(folder: Path) -> None:
    for file in folder.iterdir():
        _flush(file)
    with suppress(OSError):  # some file systems cannot flush a folder
        _flush(folder)


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sha256(file: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
