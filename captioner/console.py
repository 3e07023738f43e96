"""Progress bars and messages. They go to stderr: stdout carries results only."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from captioner.errors import ImageError

console = Console(stderr=True, highlight=False, soft_wrap=True)

Item = TypeVar("Item")
Result = TypeVar("Result")


@contextmanager
def quiet_console(*, quiet: bool = True) -> Iterator[None]:
    """Print no messages and show no progress bars within the block, if `quiet`."""
    was_quiet = console.quiet
    console.quiet = was_quiet or quiet
    try:
        yield
    finally:
        console.quiet = was_quiet


def one_line(text: object) -> str:
    """Return the text for one line of a terminal, with spaces for control characters."""
    return "".join(letter if letter.isprintable() else " " for letter in str(text))


def progress_bar(unit: str) -> Progress:
    """Return a bar that counts `unit`s. It is shown on a terminal only, and erased at the end."""
    return Progress(
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


def track(items: Iterable[Item], *, total: int, doing: str, unit: str) -> Iterator[Item]:
    """Yield the items while a progress bar counts them.

    Args:
        items: what to iterate over.
        total: how many items there are.
        doing: the text before the bar, as in "reading images".
        unit: what is counted, as in "images".
    """
    with progress_bar(unit) as bar:
        task = bar.add_task(doing, total=total, note="")
        for item in items:
            yield item
            bar.advance(task)


def skip_unreadable(
    items: Sequence[Item], results: Iterable[Result | ImageError], *, doing: str
) -> Iterator[tuple[Item, Result]]:
    """Yield each item with its result. An image that cannot be read is reported and left out."""
    tracked = track(results, total=len(items), doing=doing, unit="images")
    for item, result in zip(items, tracked, strict=True):
        if isinstance(result, ImageError):
            console.print(f"captioner: {result}", markup=False)
        else:
            yield item, result
