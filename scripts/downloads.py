"""Download zip files and extract the files of a data set. An interrupted download continues.

A file that is not complete ends in `.part`. A download is checked by its size, and each file that
is extracted from an archive by the CRC in the archive.
"""

from __future__ import annotations

import os
import re
import shutil
import time
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path, PurePosixPath
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import typer
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from captioner.console import console, program
from captioner.errors import CaptionerError, UsageError
from captioner.storage import publish

# Seconds before each new attempt. The count starts again whenever the file has grown.
PAUSES = (1.0, 2.0, 4.0, 8.0, 16.0)
TIMEOUT = 30.0  # seconds without data
CHUNK = 1 << 20  # bytes
INTERRUPTED = 130  # the exit code of typer after Ctrl-C
RETRIED = {408, 425, 429}  # HTTP codes that are tried again, like 500 and above


def new_app() -> typer.Typer:
    """Return the app of a script with one command."""
    return typer.Typer(
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
        context_settings={"help_option_names": ["-h", "--help"]},
    )


def run_app(
    app: typer.Typer, arguments: Sequence[str] | None = None, *, name: str, example: str
) -> None:
    """Run a script. An error that the user can fix is one line on stderr, and an exit code."""
    try:
        with program(name):
            app(args=arguments, prog_name=name)
    except SystemExit as end:
        if end.code == UsageError.exit_code:
            report(example)
        if end.code == INTERRUPTED:
            report("interrupted: the same command continues from here")
        raise


@dataclass(frozen=True)
class Archive:
    """A zip file at a URL, and the names of the files to extract from it into one folder."""

    url: str
    target: Path
    names: frozenset[str]

    def missing(self) -> list[str]:
        """Return the names that are not in the folder yet. A file has its name only if complete."""
        exists = self.target.is_dir()
        existing = {entry.name for entry in os.scandir(self.target)} if exists else set()
        return sorted(self.names - existing)


def fetch_all(archives: list[Archive], folder: Path) -> None:
    """Download and unpack what is missing, after a check of the disk space."""
    todo = [archive for archive in archives if archive.missing()]
    if not todo:
        return
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    check_space(todo, folder)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
    )
    with Progress(
        *columns, TimeRemainingColumn(), console=console, disable=not console.is_terminal
    ) as bar:
        for archive in todo:
            path = zip_path(archive, folder)
            if not path.exists():
                fetch(archive.url, path, bar)
            unpack(archive, path, bar)
            path.unlink()


def zip_path(archive: Archive, folder: Path) -> Path:
    """Return the path of the archive until it is unpacked."""
    return folder / archive.url.rsplit("/", 1)[-1]


def check_space(archives: list[Archive], folder: Path) -> None:
    """Check that the disk has room for all files, and for the largest archive beside its files.

    Raises:
        CaptionerError: it has not.
    """
    paths = [zip_path(archive, folder) for archive in archives]
    sizes = [
        size_of(path) or size_at(archive.url) or 0
        for archive, path in zip(archives, paths, strict=True)
    ]
    existing = [file for path in paths for file in (path, partial(path))]
    existing += [archive.target / name for archive in archives for name in archive.names]
    needed = sum(sizes) + max(sizes) - sum(size_of(path) for path in existing)
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise CaptionerError(
            f"{folder}: about {needed / 1e9:.1f} GB are needed and {free / 1e9:.1f} GB are free: "
            "free some, give --folder on another disk, "
            "or download less with --splits val or --no-images"
        )


def size_at(url: str) -> int | None:
    """Return the size of the file at a URL in bytes, or None if the server does not report it."""
    try:
        with urlopen(Request(url, method="HEAD"), timeout=TIMEOUT) as response:
            length = response.headers["Content-Length"]
            return int(length) if length else None
    except HTTPError as error:
        if error.code in (404, 410):
            raise refused(url, error) from error
        return None
    except (OSError, HTTPException, ValueError):
        return None  # the download itself tries again and reports the error


def fetch(url: str, path: Path, bar: Progress) -> None:
    """Download to `path`. After a failure, try again with growing pauses.

    Raises:
        CaptionerError: the server refuses the request, or too many attempts failed in a row.
    """
    task = bar.add_task(path.name, total=None)
    part, failures = partial(path), 0
    while True:
        before = size_of(part)
        try:
            receive(url, part, bar, task)
            break
        except HTTPError as error:
            if error.code < 500 and error.code not in RETRIED:
                raise refused(url, error) from error
            reason = f"HTTP {error.code} {error.reason}"
        except (OSError, HTTPException) as error:
            reason = str(error) or type(error).__name__
        failures = 1 if size_of(part) > before else failures + 1
        if failures > len(PAUSES):
            raise CaptionerError(
                f"{url}: {reason}; gave up after {failures} attempts. The partial file is {part}: "
                "run the same command to continue, or name a mirror with --base-url"
            )
        report(f"{path.name}: {reason}; trying again in {PAUSES[failures - 1]:.0f} s")
        time.sleep(PAUSES[failures - 1])
    with writing(path):
        publish(part, path)


def receive(url: str, part: Path, bar: Progress, task: TaskID) -> None:
    """Request the rest of `part` once.

    Raises:
        OSError: the file is not complete afterwards.
    """
    offset = size_of(part)
    try:
        response = urlopen(
            Request(url, headers={"Range": f"bytes={offset}-"} if offset else {}), timeout=TIMEOUT
        )
    except HTTPError as error:
        if error.code != 416:
            raise
        if error.headers["Content-Range"] == f"bytes */{offset}":
            return  # it is complete already
        part.unlink()
        raise ConnectionError("the partial file does not fit the server's file") from error
    with response:
        if response.status != 206:
            offset = 0  # the server sends the whole file again
        elif not re.match(rf"bytes {offset}-", response.headers["Content-Range"] or ""):
            part.unlink()
            raise ConnectionError("the server sent another range than requested")
        length = response.headers["Content-Length"]
        total = offset + int(length) if length else None
        bar.update(task, completed=offset, total=total)
        with writing(part):
            file = part.open("ab" if offset else "wb")
        with file:
            while chunk := response.read(CHUNK):
                with writing(part):
                    file.write(chunk)
                    file.flush()
                bar.advance(task, len(chunk))
    if total is not None and size_of(part) != total:
        raise ConnectionError(f"the connection ended after {size_of(part)} of {total} bytes")


def unpack(archive: Archive, path: Path, bar: Progress) -> None:
    """Extract the missing files. Folders in the archive are ignored: no path can lead elsewhere.

    Raises:
        CaptionerError: the archive is damaged or lacks a file; it is removed.
    """
    try:
        with zipfile.ZipFile(path) as file:
            members = {
                PurePosixPath(info.filename).name: info
                for info in file.infolist()
                if not info.is_dir()
            }
            names = archive.missing()
            if absent := [name for name in names if name not in members]:
                raise zipfile.BadZipFile(f"{absent[0]} and {len(absent) - 1} more are not in it")
            total = sum(members[name].file_size for name in names)
            task = bar.add_task(f"unpacking {path.name}", total=total)
            with writing(archive.target):
                archive.target.mkdir(parents=True, exist_ok=True)
            for name in names:
                part = partial(archive.target / name)
                with file.open(members[name]) as source, writing(part), part.open("wb") as sink:
                    shutil.copyfileobj(source, sink, CHUNK)  # checks the CRC at the end
                with writing(archive.target):
                    publish(part, archive.target / name, flush=False)
                bar.advance(task, members[name].file_size)
        if hasattr(os, "sync"):  # not on Windows
            os.sync()  # the zip file is removed next; flushing each image would take minutes
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        path.unlink()
        raise CaptionerError(
            f"{archive.url}: the download is not the expected zip file ({error}) and was removed: "
            "run the same command again, or name a mirror with --base-url"
        ) from error


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn an OSError of the block into a CaptionerError about the disk.

    Network errors are OSErrors too, but only they are tried again.
    """
    try:
        yield
    except OSError as error:
        raise CaptionerError(
            f"{path}: cannot be written ({error.strerror or error}): free some space or give "
            "another --folder; the same command continues with the existing files"
        ) from error


def refused(url: str, error: HTTPError) -> CaptionerError:
    """Return the error for an HTTP status that another attempt would not change."""
    return CaptionerError(
        f"{url}: HTTP {error.code} {error.reason}: check the URL in a browser, "
        "or name a mirror with --base-url"
    )


def report(message: str) -> None:
    """Print a message on stderr, above the progress bar."""
    console.print(message, markup=False)


def partial(path: Path) -> Path:
    """Return the name of a file while it is not complete."""
    return path.with_name(path.name + ".part")


def size_of(path: Path) -> int:
    """Return the size of a file in bytes; 0 if there is none."""
    return path.stat().st_size if path.exists() else 0
