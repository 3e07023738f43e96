"""Progress of long work: how many are done and failed, how many a second, and the time left.

On a terminal it is a bar; elsewhere a line on stderr now and then, or lines of JSON. Work that ends
within two seconds shows nothing.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, Self, TextIO, TypeVar, cast

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as Bar

from captioner.console import console
from captioner.errors import ImageError

Item = TypeVar("Item")
Result = TypeVar("Result")

SOON = 2.0  # seconds: shorter work shows nothing
FIRST_LINE, PERIOD = 10.0, 30.0  # seconds until the first line, and between the others
JSON_PERIOD = 5.0  # seconds between two lines of JSON


def progress_bar(unit: str) -> Bar:
    """Return a bar that counts `unit`s. It is shown on a terminal only, and erased at the end."""
    return Bar(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn(unit),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )


class Progress:
    """Context manager that counts work and shows it.

    Args:
        doing: the text before the numbers, as in "captioning".
        unit: what is counted, in the plural.
        total: how many there are; None: not known, or not yet: set it when it is.
        json_lines: write JSON lines on stderr, on a terminal too.
        clock: returns the time in seconds.
    """

    def __init__(
        self,
        doing: str,
        *,
        unit: str = "images",
        total: int | None = None,
        json_lines: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.doing, self.unit, self.total = doing, unit, total
        self.done = self.failed = self.skipped = 0  # `done` includes the other two
        self._json_lines, self._clock = json_lines, clock
        self._start = self._shown = 0.0
        self._bar: Bar | None = None
        self._task = TaskID(0)

    def __enter__(self) -> Self:
        self._start = self._clock()
        self._shown = self._start + (0 if self._json_lines else FIRST_LINE - PERIOD)
        return self

    def __exit__(self, *error: object) -> None:
        if self._bar is not None:
            self._bar.stop()
        if self._json_lines:
            self._write_json()

    def advance(self, number: int = 1, *, failed: bool = False) -> None:
        """Count what has been done, or has failed."""
        self.done += number
        self.failed += number if failed else 0
        self._show()

    def skip(self, number: int) -> None:
        """Count what an earlier run has done: it says nothing about the speed."""
        self.done += number
        self.skipped += number
        self._show()

    @property
    def per_second(self) -> float:
        """How many this run has done in a second."""
        elapsed = self._clock() - self._start
        return (self.done - self.skipped) / elapsed if elapsed > 0 else 0.0

    @property
    def seconds_left(self) -> float | None:
        """The time that the rest takes at this speed; None: not known."""
        rate = self.per_second
        if self.total is None or not rate:
            return None
        return max(0, self.total - self.done) / rate

    def values(self) -> dict[str, Any]:
        """Return the state as JSON values."""
        left = self.seconds_left
        return {
            "done": self.done,
            "total": self.total,
            "failed": self.failed,
            f"{self.unit}_per_second": round(self.per_second, 2),
            "seconds_left": None if left is None else round(left),
        }

    def line(self) -> str:
        """Return the state as a line: "1,000 of 5,000 images, 25.0 a second, 0:02:40 left"."""
        of_total = f" of {self.total:,}" if self.total is not None else ""
        left = self.seconds_left
        return (
            f"{self.done:,}{of_total} {self.unit}, {self._rate()}"
            + (f", {timedelta(seconds=round(left))} left" if left is not None else "")
            + (f", {self.failed:,} failed" if self.failed else "")
        )

    def _rate(self) -> str:
        rate = self.per_second
        return f"{rate:,.0f} a second" if rate >= 100 else f"{rate:.3g} a second"

    def _show(self) -> None:
        now = self._clock()
        if self._json_lines:
            if now - self._shown >= JSON_PERIOD:
                self._shown = now
                self._write_json()
        elif console.is_terminal:
            if now - self._start >= SOON:
                self._update_bar()
        elif now - self._shown >= PERIOD:
            self._shown = now
            console.print(f"captioner: {self.doing}: {self.line()}", markup=False)

    def _update_bar(self) -> None:
        if self._bar is None:
            self._bar = progress_bar(self.unit)
            self._task = self._bar.add_task(self.doing, total=self.total, note="")
            self._bar.start()
        failed = f", {self.failed:,} failed" if self.failed else ""
        self._bar.update(
            self._task, completed=self.done, total=self.total, note=f"{self._rate()}{failed}"
        )

    def _write_json(self) -> None:
        if not console.quiet and sys.stderr is not None:
            print(json.dumps(self.values()), file=sys.stderr, flush=True)


class _JsonMessages:
    """A file that writes each line of text as a JSON object on stderr."""

    def write(self, text: str) -> int:
        for line in text.splitlines():
            if line.strip():
                print(json.dumps({"message": line}), file=sys.stderr, flush=True)
        return len(text)

    def flush(self) -> None:
        """Do nothing: each line is written at once."""


@contextmanager
def messages_as_json(wanted: bool = True) -> Iterator[None]:
    """Write the messages of the block, if `wanted`, as {"message": ...} on stderr."""
    if not wanted:
        yield
        return
    own = console._file  # None: `console.file` would be the stderr of this moment
    console._file = cast(TextIO, _JsonMessages())
    try:
        yield
    finally:
        console._file = own


def track(items: Iterable[Item], *, total: int, doing: str, unit: str) -> Iterator[Item]:
    """Yield the items while a progress bar counts them.

    Args:
        items: what to iterate over.
        total: how many items there are.
        doing: the text before the bar, as in "reading images".
        unit: what is counted, as in "images".
    """
    with Progress(doing, unit=unit, total=total) as progress:
        for item in items:
            yield item
            progress.advance()


def skip_unreadable(
    items: Sequence[Item],
    results: Iterable[Result | ImageError],
    *,
    doing: str,
    json_lines: bool = False,
) -> Iterator[tuple[Item, Result]]:
    """Yield each item with its result. An image that cannot be read is reported and left out."""
    with Progress(doing, total=len(items), json_lines=json_lines) as progress:
        for item, result in zip(items, results, strict=True):
            is_broken = isinstance(result, ImageError)
            if isinstance(result, ImageError):
                console.print(f"captioner: {result}", markup=False)
            else:
                yield item, result
            progress.advance(failed=is_broken)
