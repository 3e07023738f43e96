"""Atomic files and folders, and checksums, which reveal a changed byte in a folder.

A reader of an atomic file or folder, also after a crash, finds the old one or the complete new one.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, BinaryIO, TextIO, cast

from captioner.errors import CaptionerError, UsageError

CHECKSUMS = "checksums.json"
# No folder of the user has such a name: those that a crash has left are removed or restored.
_UNFINISHED, _REPLACED = ".captioner-tmp", ".captioner-old"
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


def publish(unfinished: Path, path: Path, *, flush: bool = True) -> None:
    """Give a complete file or folder its name, after flushing it to the disk.

    An existing file or folder is replaced. A folder is moved aside first: after a crash,
    `recover_from_crash` restores it.

    Args:
        unfinished: on the same disk as `path`.
        path: the name.
        flush: False if the caller flushes the disk after many files.

    Raises:
        OSError: the disk is full or read-only; `unfinished` and what `path` was remain.
    """
    if flush:
        _flush_all(unfinished) if unfinished.is_dir() else _flush(unfinished)
    if unfinished.is_dir():
        _rename_folder(unfinished, path)
    else:
        unfinished.replace(path)
    if flush:
        with suppress(OSError):  # some file systems cannot flush a folder
            _flush(path.parent)


def _rename_folder(unfinished: Path, path: Path) -> None:
    replaced = path.with_name(path.name + _REPLACED)
    if path.exists():
        path.rename(replaced)
    try:
        unfinished.rename(path)
    except OSError:
        if replaced.exists():
            replaced.rename(path)
        raise
    shutil.rmtree(replaced, ignore_errors=True)


@contextmanager
def atomic_file(path: Path) -> Iterator[TextIO]:
    """Yield a text file that is renamed to `path` when the block ends without an error.

    The target of a symbolic link is replaced, not the link. A device or a pipe is written to.

    Raises:
        CaptionerError: the folder is missing or read-only, or the disk is full; nothing remains.
    """
    with _atomic_file(path, "w") as file:
        yield cast(TextIO, file)


@contextmanager
def atomic_binary_file(path: Path) -> Iterator[BinaryIO]:
    """Yield a binary file that is renamed to `path`, as `atomic_file` does."""
    with _atomic_file(path, "wb") as file:
        yield cast(BinaryIO, file)


@contextmanager
def _atomic_file(path: Path, mode: str) -> Iterator[IO[str] | IO[bytes]]:
    encoding = None if "b" in mode else "utf-8"
    target = _target(path)
    unfinished = _unfinished(target)
    try:
        if is_special(path):  # a rename would replace /dev/null; a pipe has no resolved path
            with path.open(mode, encoding=encoding) as file:
                yield file
            return
        with unfinished.open(mode, encoding=encoding) as file:
            yield file
        publish(unfinished, target)
    except OSError as error:
        raise CaptionerError(
            f"{path} cannot be written: {error.strerror or error}; check its folder and free space"
        ) from error
    finally:
        with suppress(OSError):  # it exists only after an error
            unfinished.unlink()


def _target(path: Path) -> Path:
    """Return what a symbolic link stands for, or a path that is no link as it is."""
    return Path(os.path.realpath(path)) if os.path.islink(path) else path


def _unfinished(target: Path) -> Path:
    """Return where a file is written before it is renamed to `target`."""
    return target.with_name(f".{target.name}.{os.getpid()}{_UNFINISHED}")


def unfinished_files(folder: Path) -> Iterator[tuple[Path, str]]:
    """Yield what killed processes have left in a folder, with the names that it was to have."""
    for file in folder.glob(f".*{_UNFINISHED}"):
        yield file, file.name.removesuffix(_UNFINISHED)[1:].rpartition(".")[0]


@contextmanager
def written_by_library(path: Path) -> Iterator[Path]:
    """Give a file that a library writes within the block the permissions of any other new file.

    safetensors makes files that only their owner can read, whatever the umask is. The umask can
    only be read by changing it for all threads, so the file is made here, and its mode is kept.
    """
    path.touch()
    mode = stat.S_IMODE(path.stat().st_mode)
    yield path
    if stat.S_IMODE(path.stat().st_mode) != mode:
        path.chmod(mode)


def is_special(path: Path) -> bool:
    """Return whether a path is a device or a pipe, which is written to and never replaced."""
    return os.path.exists(path) and not os.path.isfile(path) and not os.path.isdir(path)


def check_writable(path: Path) -> None:
    """Raise before any work is done if a file cannot be written.

    Raises:
        UsageError: its folder is missing, closed to this user or read-only, its name is too long,
            or `path` is a folder.
    """
    if is_special(path):
        return
    target = _target(path)
    folder = target.parent
    try:
        if target.is_dir():
            raise UsageError(f"{path} is a folder: name a file")
        with suppress(FileNotFoundError, NotADirectoryError):
            # an error if this longer name is too long, or the folder closed; `exists` and `is_dir`
            # hide both since Python 3.14
            _unfinished(target).stat()
        if not folder.is_dir():
            raise UsageError(f"{path}: there is no folder {folder}; create it first")
    except OSError as error:
        raise UsageError(
            f"{path} cannot be written: {error.strerror or error}: choose another name or folder"
        ) from None
    if not os.access(folder, os.W_OK):
        raise UsageError(f"{path}: the folder {folder} is read-only; choose another folder")


def check_new(path: Path) -> None:
    """Raise if a file would replace one that may not be an earlier output; an empty one is none.

    Raises:
        UsageError: the file exists, or cannot be written.
    """
    check_writable(path)
    if path.is_file() and path.stat().st_size:
        raise UsageError(
            f"{path} exists already, and it could be your data: choose another name, "
            "or delete it first"
        )


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Yield a folder that is renamed to `path` when the block ends without an error.

    Its files are flushed to the disk, and their checksums written, before the renaming. After a
    crash at any moment `recover_from_crash` restores either the old folder or the new one. Files
    that somebody added to the old folder are kept.

    Raises:
        UsageError: `path` is a file, or a folder that was not written by this function.
        CaptionerError: the disk is full or read-only; the old folder is kept.
    """
    path = Path(os.path.realpath(path))  # of a link: its target; of ".": the folder's name
    _check_replaceable(path)
    unfinished = path.with_name(path.name + _UNFINISHED)
    try:
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(parents=True)
        yield unfinished
        write_checksums(unfinished)
        _copy_added(path, unfinished)
        publish(unfinished, path)
    except OSError as error:
        closed = isinstance(error, PermissionError) or error.errno == errno.EROFS
        hint = "" if closed else f" ({free_space(path)} MiB free): free some space or"
        raise CaptionerError(
            f"{path} cannot be written: {error.strerror or error}{hint or ':'} choose another "
            "folder; what was saved before is untouched"
        ) from None
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _check_replaceable(path: Path) -> None:
    if path == path.parent:
        raise UsageError(f"{path} is the root of the disk: name a new folder in it")
    try:
        if path.exists() and not path.is_dir():
            raise UsageError(f"{path} is a file: name a new folder")
        if path.is_dir() and not (path / CHECKSUMS).is_file() and any(path.iterdir()):
            raise UsageError(
                f"{path} holds other files, which would be lost: name a new or an empty folder"
            )
    except OSError as error:
        raise CaptionerError(
            f"{path} cannot be written: {error.strerror or error}: choose another folder"
        ) from None


def _copy_added(old: Path, new: Path) -> None:
    """Copy what is in the old folder, is not in the new one, and was not written by captioner."""
    if not old.is_dir():
        return
    written = {CHECKSUMS}
    with suppress(OSError, ValueError, TypeError):  # a corrupt model is replaced too
        written |= written_files(old)
    for added in old.iterdir():
        if added.name in written or (new / added.name).exists():
            continue
        if added.is_dir():
            shutil.copytree(added, new / added.name, symlinks=True)
        else:
            shutil.copy2(added, new / added.name, follow_symlinks=False)


def recover_from_crash(folder: Path) -> None:
    """Remove what is unfinished in `folder`, and restore folders that were about to be replaced."""
    for replaced in _folders(folder, "*" + _REPLACED):
        current = replaced.with_name(replaced.name.removesuffix(_REPLACED))
        if current.exists():
            shutil.rmtree(replaced, ignore_errors=True)
        else:
            replaced.rename(current)
    for unfinished in _folders(folder, "*" + _UNFINISHED):
        shutil.rmtree(unfinished, ignore_errors=True)
    for file, _ in unfinished_files(folder):
        file.unlink(missing_ok=True)


def _folders(folder: Path, pattern: str) -> list[Path]:
    return [path for path in folder.glob(pattern) if path.is_dir()]


def written_files(folder: Path) -> set[str]:
    """Return the names of the files in a folder that have a checksum: captioner wrote them.

    Raises:
        OSError, ValueError, TypeError: there are no valid checksums.
    """
    return set(json.loads((folder / CHECKSUMS).read_text(encoding="utf-8")))


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
        if not isinstance(expected, dict):
            raise TypeError("not an object")
    except PermissionError as error:
        raise read_error(folder / CHECKSUMS, error) from None
    except (OSError, ValueError, TypeError) as error:
        raise CaptionerError(
            f"{folder} has no readable {CHECKSUMS} ({error}): it was not saved by captioner, or "
            "only a part of it was copied; copy the whole folder again"
        ) from None
    for name in expected:
        try:
            checksum = sha256(folder / name)
        except FileNotFoundError:
            raise CaptionerError(
                f"{folder / name} is missing: copy the whole folder again"
            ) from None
        except OSError as error:
            raise read_error(folder / name, error) from None
        if checksum != expected[name]:
            raise CaptionerError(
                f"{folder / name} is corrupt (its SHA-256 has changed): copy the whole folder again"
            )


def read_error(path: Path, error: OSError) -> CaptionerError:
    """Return the error for a file of a folder that cannot be read, with the way out."""
    hint = (
        "give this user the right to read it, or copy the folder"
        if isinstance(error, PermissionError)
        else "copy the whole folder again"
    )
    return CaptionerError(f"{path} cannot be read: {error.strerror or error}: {hint}")


def _flush_all(folder: Path) -> None:
    for path in (*folder.rglob("*"), folder):
        if path.is_dir():
            with suppress(OSError):  # some file systems cannot flush a folder
                _flush(path)
        elif path.is_file():
            _flush(path)


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
