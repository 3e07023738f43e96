"""The output folder of a bulk run: `.run.json`, and a file for each part of the images.

A part file is written completely or not at all, and the parts that exist are the only record of
what is done. So a killed run continues, and several processes or machines share a folder.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from captioner.data.filesystems import (
    exists,
    is_remote,
    join,
    list_folder,
    open_file,
    read_bytes,
    write_file,
)
from captioner.data.lists import ImageItem
from captioner.errors import CaptionerError, UsageError, parameter, shown
from captioner.locking import Lock
from captioner.results.rows import Row, RowFormat, format_rows, parquet_text, read_jsonl
from captioner.storage import unfinished_files

RUN = ".run.json"
"""What the parts depend on. Its dot keeps it from tools that read a whole folder as one table."""

PART_SIZE = 1000
"""Images of a part, unless told otherwise: what a killed run has to do again at most."""

_NAME = re.compile(r"part-(\d{8,})\.(jsonl|parquet)")
_TAIL = 65536  # bytes at the end of a part that are read for its last row


@dataclass(frozen=True)
class Shard:
    """The share of a run that a process takes: parts p with p % count == index - 1."""

    index: int  # 1..count
    count: int

    @classmethod
    def parse(cls, text: str) -> Shard:
        """Return the shard that a text such as "2/8" names.

        Raises:
            UsageError: it names none.
        """
        match = re.fullmatch(r"\s*(\d{1,9})\s*/\s*(\d{1,9})\s*", text)
        shard = cls(int(match[1]), int(match[2])) if match else cls(0, 0)
        if not 1 <= shard.index <= shard.count:
            raise UsageError(
                f"{parameter('shard')} {text[:40]}: give i/n with i from 1 to n: 1/8 is the first "
                "of eight"
            )
        return shard

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"

    def takes(self, part: int) -> bool:
        """Return whether a part is of this shard."""
        return part % self.count == self.index - 1


ALL = Shard(1, 1)


class PartFolder:
    """The parts of a run in its output folder, which is local or in a store."""

    def __init__(self, folder: str, form: RowFormat) -> None:
        self.folder, self.form = folder.rstrip("/") or "/", form
        self._existing: set[str] = set()

    @classmethod
    def open(cls, folder: str, form: RowFormat, run: Mapping[str, Any]) -> Self:
        """Open a folder for a run, and make it if it is missing.

        Args:
            folder: a path, or the URI of a store.
            form: the format of the parts.
            run: everything that the rows depend on, as values for JSON.

        Raises:
            UsageError: the folder has parts of another run; the message says what differs.
            CaptionerError: the folder cannot be made or written.
        """
        parts = cls(folder, form)
        with parts._errors():
            if not is_remote(folder):
                Path(folder).mkdir(parents=True, exist_ok=True)
            with parts._lock("run", wait=True):
                parts._check_run({**run, "format": form})
            if exists(parts.folder):
                parts._existing = {entry.name for entry in list_folder(parts.folder)}
        return parts

    @contextmanager
    def claim(self, shard: Shard) -> Iterator[None]:
        """Hold a shard within the block, and remove what a killed process has left of its parts.

        Raises:
            LockedError: another process holds it.
            CaptionerError: the folder cannot be written.
        """
        with ExitStack() as stack:
            with self._errors():
                stack.enter_context(self._lock(f"shard-{shard.index}-of-{shard.count}"))
                self.remove_unfinished(shard)
            yield

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise CaptionerError(
                f"{self.folder} cannot be written: {error.strerror or error}: free some space, or "
                "choose another folder"
            ) from error

    def _lock(self, name: str, *, wait: bool = False) -> AbstractContextManager[object]:
        if is_remote(self.folder):  # a store has no locks; equal parts replace each other
            return nullcontext()
        what = f"{self.folder}, {name.replace('-', ' ')},"
        path = Path(self.folder, f".{name}.lock")
        return Lock(path, what=what, wait=(lambda _: None) if wait else None)

    def remove_unfinished(self, shard: Shard) -> None:
        """Remove what killed processes have left of the parts of a shard."""
        if not is_remote(self.folder):
            for file, name in unfinished_files(Path(self.folder)):
                match = _NAME.fullmatch(name)
                if match and shard.takes(int(match[1])):
                    file.unlink(missing_ok=True)

    def path(self, number: int) -> str:
        """Return the path of a part."""
        return join(self.folder, f"part-{number:08}.{self.form}")

    def paths(self) -> list[str]:
        """Return the paths of all parts that there are, in order."""
        return [self.path(number) for number in sorted(self.numbers())]

    def numbers(self) -> set[int]:
        """Return the numbers of all parts that there are."""
        matches = (_NAME.fullmatch(entry.name) for entry in list_folder(self.folder))
        return {int(match[1]) for match in matches if match}

    def is_done(self, number: int, items: Sequence[ImageItem]) -> bool:
        """Return whether a part has a row for each of these images.

        A part that is only shorter is not done: the source has grown.

        Raises:
            UsageError: the part is of other images.
        """
        path = self.path(number)
        if os.path.basename(path) not in self._existing and (
            is_remote(path) or not os.path.exists(path)
        ):
            return False
        expected = [self._shown(item.name) for item in items]
        try:
            if self._ends(path) == (expected[0], expected[-1]):
                return True
            stored = [row.image for row in self.rows(path)]
        except (OSError, ValueError, TypeError, LookupError) as error:
            raise UsageError(
                f"{path} is not a part of this run ({error}): delete it, and it is made again"
            ) from error
        if len(stored) < len(expected) and stored == expected[: len(stored)]:
            return False
        raise UsageError(
            f"{path} does not have the images that the source now has there: the source has "
            "changed since; choose another output folder"
        )

    def _shown(self, name: str) -> str:
        return parquet_text(name) if self.form == "parquet" else name

    def _ends(self, path: str) -> tuple[str, str]:
        """Return the names of the first and the last image of a part, reading little of it."""
        if self.form == "parquet":
            names = [row.image for row in self.rows(path)]
        else:
            with open_file(path) as file:
                first = file.readline()
                size = file.seek(0, os.SEEK_END)
                file.seek(max(0, size - _TAIL))
                last = file.read().splitlines()[-1]
            names = [row.image for row in read_jsonl([first, last])]
        return names[0], names[-1]

    def rows(self, path: str) -> Iterator[Row]:
        """Yield the rows of a part."""
        with open_file(path) as file:
            if self.form == "jsonl":
                yield from read_jsonl(file)
                return
            import pyarrow.parquet as pq

            yield from (Row(**values) for values in pq.read_table(file).to_pylist())

    def check_end(self, last: int, shard: Shard) -> None:
        """Check that a shard has no part after its last one.

        Raises:
            UsageError: it has: the source has become shorter.
        """
        matches = map(_NAME.fullmatch, self._existing)
        numbers = [int(match[1]) for match in matches if match]
        if beyond := [each for each in numbers if each > last and shard.takes(each)]:
            raise UsageError(
                f"{self.path(min(beyond))} is beyond the end of the source, which has changed "
                "since: choose another output folder"
            )

    def write(self, number: int, rows: Sequence[Row]) -> None:
        """Write a part, completely or not at all.

        Raises:
            CaptionerError: it cannot be written.
        """
        write_file(self.path(number), format_rows(rows, self.form))

    def remove(self) -> None:
        """Remove all parts and the folder, unless it has other files."""
        for path in [*self.paths(), join(self.folder, RUN)]:
            os.unlink(path)
        with suppress(OSError):
            os.rmdir(self.folder)

    def _check_run(self, run: dict[str, Any]) -> None:
        """Write `.run.json`, or compare the one that there is.

        Raises:
            UsageError: it is of another run.
        """
        path = join(self.folder, RUN)
        if not exists(path):
            if exists(self.folder) and self.paths():
                raise UsageError(
                    f"{self.folder} has parts without their {RUN}: copy that file there too, or "
                    "choose another folder"
                )
            write_file(path, (json.dumps(run, indent=2) + "\n").encode())
            return
        try:
            stored = json.loads(read_bytes(path))
            if not isinstance(stored, dict) or run.keys() - stored.keys():
                raise ValueError("other keys")
        except ValueError as error:
            raise UsageError(
                f"{path} is not of a bulk run ({error}): choose another folder"
            ) from error
        for key, value in run.items():
            if stored[key] != value:
                was, now = _difference(stored[key], value)
                raise UsageError(
                    f"{self.folder} has parts of another run: {key} was {was}, and is {now}: "
                    "choose another folder, or run it with what it was"
                )


def _difference(was: Any, now: Any) -> tuple[str, str]:
    """Return two values, or the first entries of two mappings that differ, for a message."""
    if isinstance(was, dict) and isinstance(now, dict):
        for key in [*was, *now]:
            if was.get(key) != now.get(key):
                return f"{key}={shown(was.get(key))}", f"{key}={shown(now.get(key))}"
    return shown(was), shown(now)
