"""Files and folders of this machine, and of stores such as s3:// and gs:// through pyarrow.

A path is a string: a local path, or a URI of a store. http:// and https:// are never fetched.
"""

from __future__ import annotations

import errno
import io
import os
import re
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, cast

from captioner.errors import CaptionerError, MissingPackageError, UsageError
from captioner.storage import atomic_binary_file

STORES = ("s3", "gs", "gcs", "abfs", "abfss", "hdfs")
"""Schemes of the URIs that pyarrow's file systems read and write."""

BUFFER = 4 * 2**20
"""Bytes that one request to a store reads ahead: the headers of a tar are read in order."""

_URI = re.compile(rf"({'|'.join(STORES)})://([^/]*)/?(.*)", re.DOTALL)


class Entry(NamedTuple):
    """An entry of a folder."""

    name: str
    is_folder: bool


class FileState(NamedTuple):
    """What changes when a file is written again."""

    size: int  # in bytes
    modified: int  # nanoseconds since 1970


class RemoteFile(NamedTuple):
    """A file in a store, which `captioner.data.images.read_image` reads when it is needed."""

    name: str  # its URI

    def read(self) -> bytes:
        """Return its content."""
        return read_bytes(self.name)


def is_remote(path: str) -> bool:
    """Return whether a path is the URI of a store."""
    return _URI.match(path) is not None


def import_pyarrow(needed_by: str) -> Any:
    """Return the module pyarrow.

    Raises:
        MissingPackageError: it is not installed; the message says what needs it.
    """
    try:
        import pyarrow
    except ImportError as error:
        raise MissingPackageError(
            f"{needed_by} needs the package pyarrow, which is not installed: "
            "pip install 'captioner[bulk]', or pip install 'pyarrow>=15'"
        ) from error
    return pyarrow


def _file_system(scheme: str, bucket: str) -> Any:
    """Return the file system of a store, for this process: a fork has none of its threads."""
    return _file_system_of(os.getpid(), scheme, bucket)


@cache
def _file_system_of(process: int, scheme: str, bucket: str) -> Any:
    """Make a file system: each has connections of its own, so it is made once."""
    import_pyarrow(f"a path of {scheme}://")
    from pyarrow.fs import FileSystem

    return FileSystem.from_uri(f"{scheme}://{bucket}")[0]


def _resolve(uri: str) -> tuple[Any, str]:
    """Return the file system of a URI, and the path in it."""
    match = cast("re.Match[str]", _URI.match(uri))
    scheme, bucket, key = match.groups()
    path = f"/{key}" if scheme == "hdfs" else f"{bucket}/{key}"
    try:
        return _file_system(scheme, bucket), path.rstrip("/")
    except (OSError, ValueError) as error:
        raise UsageError(f"{uri}: {_reason(error)}: check the URI and your credentials") from error


def _reason(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def open_file(path: str) -> BinaryIO:
    """Open a file for reading and seeking.

    Raises:
        OSError: it cannot be opened.
    """
    if not is_remote(path):
        return open(path, "rb")  # the caller closes it
    system, name = _resolve(path)
    return io.BufferedReader(system.open_input_file(name), BUFFER)


def read_bytes(path: str) -> bytes:
    """Return the content of a file.

    Raises:
        OSError: it cannot be read.
    """
    with open_file(path) as file:
        return file.read()


def read_range(path: str, offset: int, size: int) -> bytes:
    """Return `size` bytes of a file from an offset, or fewer if it ends before.

    Raises:
        OSError: it cannot be read.
    """
    if is_remote(path):
        system, name = _resolve(path)
        with system.open_input_file(name) as file:
            return bytes(file.read_at(size, offset))
    with open(path, "rb") as file:
        file.seek(offset)
        return file.read(size)


def file_state(path: str) -> FileState:
    """Return the size of a file, and when it was written.

    Raises:
        OSError: there is no such file, or it cannot be looked at.
    """
    if not is_remote(path):
        status = os.stat(path)
        return FileState(status.st_size, status.st_mtime_ns)
    from pyarrow.fs import FileType

    system, name = _resolve(path)
    info = system.get_file_info(name)
    if info.type == FileType.NotFound:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
    return FileState(info.size or 0, info.mtime_ns or 0)


def is_folder(path: str) -> bool:
    """Return whether a path is an existing folder."""
    if not is_remote(path):
        return os.path.isdir(path)
    from pyarrow.fs import FileType

    system, name = _resolve(path)
    return bool(system.get_file_info(name).type == FileType.Directory)


def exists(path: str) -> bool:
    """Return whether a path is that of an existing file or folder."""
    if not is_remote(path):
        return os.path.exists(path)
    from pyarrow.fs import FileType

    system, name = _resolve(path)
    return bool(system.get_file_info(name).type != FileType.NotFound)


def list_folder(path: str) -> list[Entry]:
    """Return the entries of a folder, sorted by name. Links to folders are left out.

    Raises:
        OSError: it cannot be listed.
    """
    if is_remote(path):
        from pyarrow.fs import FileSelector, FileType

        system, name = _resolve(path)
        infos = system.get_file_info(FileSelector(name))
        entries = [Entry(info.base_name, info.type == FileType.Directory) for info in infos]
    else:
        with os.scandir(path) as scanned:
            entries = [
                Entry(each.name, each.is_dir())
                for each in scanned
                if not (each.is_symlink() and each.is_dir())
            ]
    return sorted(entries)


def join(folder: str, name: str) -> str:
    """Return the path of a name in a folder, which may be the URI of a store."""
    return f"{folder.rstrip('/')}/{name}" if is_remote(folder) else os.path.join(folder, name)


def write_file(path: str, data: bytes) -> None:
    """Write a file completely or not at all.

    A store shows an object when all of its bytes have arrived. The folder of a local file must
    exist.

    Raises:
        CaptionerError: the file cannot be written.
    """
    if not is_remote(path):
        with atomic_binary_file(Path(path)) as file:
            file.write(data)
        return
    system, name = _resolve(path)
    try:
        with system.open_output_stream(name) as stream:
            stream.write(data)
    except OSError as error:
        raise CaptionerError(f"{path} cannot be written: {_reason(error)}") from error
