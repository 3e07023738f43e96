"""Fetch COCO's captions and images, whole: after a broken line or Ctrl-C, the same command goes on where it stopped.

A file has its own name only once it is complete; until then it ends in `.part`. COCO publishes no checksums, so a
download is checked by its size, and each file taken out of an archive by the archive's CRC.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
import time
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path, PurePosixPath
from typing import Annotated
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

from captioner.console import console
from captioner.errors import CaptionerError, UsageError

OFFICIAL = "http://images.cocodataset.org"
KARPATHY = "https://cs.stanford.edu/people/karpathy/deepimagesent/caption_datasets.zip"
EXAMPLE = "Example: python scripts/download_coco.py --year 2017 --splits train,val"

PAUSES = (
    1.0,
    2.0,
    4.0,
    8.0,
    16.0,
)  # seconds before each new attempt; counted anew whenever the file has grown
TIMEOUT = 30.0  # seconds without a byte
CHUNK = 1 << 20
BUSY = {408, 425, 429}  # like 500 and above: worth another attempt

app = typer.Typer(
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@dataclass(frozen=True)
class Archive:
    """A zip file on the net, and the files of it that are wanted, all in one folder."""

    url: str
    target: Path
    names: frozenset[str]

    def missing(self) -> list[str]:
        """Name the files that are not in the folder yet. One that is there is whole: it was renamed last."""
        held = {entry.name for entry in os.scandir(self.target)} if self.target.is_dir() else set()
        return sorted(self.names - held)


@app.command(epilog=EXAMPLE)
def download_coco(
    folder: Annotated[Path, typer.Option(metavar="FOLDER", help="Where everything goes.")] = Path(
        "data/coco"
    ),
    year: Annotated[int, typer.Option(metavar="2014|2017", help="Which COCO.")] = 2017,
    splits: Annotated[
        str, typer.Option(metavar="SPLITS", help="train, val or both, a comma between.")
    ] = "train,val",
    no_images: Annotated[bool, typer.Option("--no-images", help="Only the captions.")] = False,
    karpathy: Annotated[
        bool, typer.Option("--karpathy", help="Also Karpathy's splits (of the 2014 images).")
    ] = False,
    base_url: Annotated[
        str, typer.Option(metavar="URL", help="A mirror of COCO's files.")
    ] = OFFICIAL,
    karpathy_url: Annotated[
        str, typer.Option(metavar="URL", help="A mirror of Karpathy's zip.")
    ] = KARPATHY,
) -> None:
    """Fetch COCO's captions and images. About 0.3 GB of captions; 19 GB of images, and as much again for a while."""
    if year not in (2014, 2017):
        raise UsageError(f"--year is {year}: choose 2014 or 2017")
    wanted = splits.replace(",", " ").split()
    if not wanted or not set(wanted) <= {"train", "val"}:
        raise UsageError(f"--splits is {splits!r}: choose train, val or train,val")
    if karpathy and year != 2014:
        raise UsageError("--karpathy splits the images of 2014: add --year 2014")
    for url in (base_url, karpathy_url):
        if not url.startswith(("http://", "https://")):
            raise UsageError(f"{url!r} is not an address: it must begin with http:// or https://")
    base, annotations = base_url.rstrip("/"), folder / "annotations"
    captions = {split: annotations / f"captions_{split}{year}.json" for split in wanted}
    names = frozenset(path.name for path in captions.values())
    archives = [Archive(f"{base}/annotations/annotations_trainval{year}.zip", annotations, names)]
    if karpathy:
        archives.append(Archive(karpathy_url, folder, frozenset({"dataset_coco.json"})))
    try:
        fetch_all(archives, folder)
        if not no_images:
            images = {f"{split}{year}": images_named_by(path) for split, path in captions.items()}
            fetch_all(
                [
                    Archive(f"{base}/zips/{name}.zip", folder / name, images[name])
                    for name in images
                ],
                folder,
            )
    except KeyboardInterrupt:
        say("stopped: the same command goes on from here")
        raise typer.Exit(130) from None
    say(f"all there: {folder}")


def images_named_by(path: Path) -> frozenset[str]:
    """Read which images an annotation file speaks of."""
    try:
        names = frozenset(image["file_name"] for image in json.loads(path.read_bytes())["images"])
        if bad := [
            name
            for name in names
            if name != PurePosixPath(name).name or "\\" in name or name in ("", "..")
        ]:
            raise ValueError(f"{bad[0]!r} is not the name of a file in a folder")
    except (ValueError, KeyError, TypeError) as error:
        raise CaptionerError(
            f"{path}: is not COCO's captions ({error}): remove it and run again"
        ) from error
    return names


def fetch_all(archives: list[Archive], folder: Path) -> None:
    """Fetch and unpack what is not there yet, once it is known that the disk has room."""
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
    """Say where the archive lies until it is unpacked."""
    return folder / archive.url.rsplit("/", 1)[-1]


def check_space(archives: list[Archive], folder: Path) -> None:
    """Refuse to start what the disk cannot hold: all files, and the largest archive that they come out of."""
    paths = [zip_path(archive, folder) for archive in archives]
    sizes = [
        size_of(path) or size_at(archive.url) or 0
        for archive, path in zip(archives, paths, strict=True)
    ]
    held = [held for path in paths for held in (path, partial(path))]
    held += [archive.target / name for archive in archives for name in archive.names]
    need = sum(sizes) + max(sizes) - sum(size_of(path) for path in held)
    free = shutil.disk_usage(folder).free
    if need > free:
        raise CaptionerError(
            f"{folder}: about {need / 1e9:.1f} GB are needed and {free / 1e9:.1f} GB are free: "
            "free some, give --folder on another disk, or ask for less with --splits val or --no-images"
        )


def size_at(url: str) -> int | None:
    """Ask how large a file on the net is; None where the server does not say."""
    try:
        with urlopen(Request(url, method="HEAD"), timeout=TIMEOUT) as response:
            length = response.headers["Content-Length"]
            return int(length) if length else None
    except HTTPError as error:
        if error.code in (404, 410):
            raise refused(url, error) from error
        return None
    except (OSError, HTTPException, ValueError):
        return None  # the download itself will try again, and say what is wrong


def fetch(url: str, path: Path, bar: Progress) -> None:
    """Download to `path`, trying again with growing pauses as long as there is hope."""
    task = bar.add_task(path.name, total=None)
    part, failures = partial(path), 0
    while True:
        before = size_of(part)
        try:
            receive(url, part, bar, task)
            break
        except HTTPError as error:
            if error.code < 500 and error.code not in BUSY:
                raise refused(url, error) from error
            reason = f"HTTP {error.code} {error.reason}"
        except (OSError, HTTPException) as error:
            reason = str(error) or type(error).__name__
        failures = 1 if size_of(part) > before else failures + 1
        if failures > len(PAUSES):
            raise CaptionerError(
                f"{url}: {reason}; gave up after {failures} attempts. What came is kept in {part}: "
                "run the same command to go on, or name a mirror with --base-url or --karpathy-url"
            )
        say(f"{path.name}: {reason}; again in {PAUSES[failures - 1]:.0f} s")
        time.sleep(PAUSES[failures - 1])
    with writing(path):
        os.replace(part, path)


def receive(url: str, part: Path, bar: Progress, task: TaskID) -> None:
    """Ask once for what `part` still lacks. Raises an OSError where it is not complete afterwards."""
    have = size_of(part)
    try:
        response = urlopen(
            Request(url, headers={"Range": f"bytes={have}-"} if have else {}), timeout=TIMEOUT
        )
    except HTTPError as error:
        if error.code != 416:
            raise
        if error.headers["Content-Range"] == f"bytes */{have}":
            return  # there was nothing left to ask for
        part.unlink()
        raise ConnectionError("the partial file did not fit the server's") from error
    with response:
        if response.status != 206:
            have = 0  # the server sends all of it anew
        elif not re.match(rf"bytes {have}-", response.headers["Content-Range"] or ""):
            part.unlink()
            raise ConnectionError("the server sent another part than was asked for")
        length = response.headers["Content-Length"]
        total = have + int(length) if length else None
        bar.update(task, completed=have, total=total)
        with writing(part):
            file = part.open("ab" if have else "wb")
        with file:
            while chunk := response.read(CHUNK):
                with writing(part):
                    file.write(chunk)
                    file.flush()
                bar.advance(task, len(chunk))
    if total is not None and size_of(part) != total:
        raise ConnectionError(f"the connection ended after {size_of(part)} of {total} bytes")


def unpack(archive: Archive, path: Path, bar: Progress) -> None:
    """Take the missing files out of the zip. Only their own names are used, so that no path can lead elsewhere."""
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
            task = bar.add_task(
                f"unpacking {path.name}", total=sum(members[name].file_size for name in names)
            )
            with writing(archive.target):
                archive.target.mkdir(parents=True, exist_ok=True)
            for name in names:
                part = partial(archive.target / name)
                with file.open(members[name]) as source, writing(part), part.open("wb") as sink:
                    shutil.copyfileobj(source, sink, CHUNK)  # reading to the end compares the CRC
                with writing(archive.target):
                    os.replace(part, archive.target / name)
                bar.advance(task, members[name].file_size)
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        path.unlink()
        raise CaptionerError(
            f"{archive.url}: what came is not the zip file it should be ({error}), and was removed: "
            "run the same command again, or name a mirror with --base-url or --karpathy-url"
        ) from error


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Tell a full or read-only disk from a broken line: only the line is worth another attempt."""
    try:
        yield
    except OSError as error:
        raise CaptionerError(
            f"{path}: cannot be written ({error.strerror or error}): "
            "free some space or give another --folder; the same command goes on from what is there"
        ) from error


def refused(url: str, error: HTTPError) -> CaptionerError:
    """Word an answer that no waiting will change."""
    return CaptionerError(
        f"{url}: HTTP {error.code} {error.reason}: check the address in a browser, "
        "or name a mirror with --base-url or --karpathy-url"
    )


def say(message: str) -> None:
    """Tell the user, above the progress bar and on stderr."""
    console.print(message, markup=False)


def partial(path: Path) -> Path:
    """Name the file while it is not complete."""
    return path.with_name(path.name + ".part")


def size_of(path: Path) -> int:
    """Bytes on the disk; none where there is no file."""
    return path.stat().st_size if path.exists() else 0


def main(arguments: Sequence[str] | None = None) -> None:
    """Run it; what the user can mend is said in one line, with the exit code that belongs to it."""
    try:
        app(args=arguments, prog_name="download_coco")
    except SystemExit as end:
        if end.code == UsageError.exit_code:
            say(EXAMPLE)
        raise
    except CaptionerError as error:
        say(f"download_coco: {error}")
        if isinstance(error, UsageError):
            say(EXAMPLE)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
