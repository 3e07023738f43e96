"""What people see while they wait: everything here goes to stderr, so that stdout holds nothing but results."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

console = Console(stderr=True, highlight=False, soft_wrap=True)

Thing = TypeVar("Thing")


def progress_bar(unit: str) -> Progress:
    """A bar that counts `unit`s, shown on a terminal only and gone when done."""
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


def track(things: Iterable[Thing], *, total: int, doing: str, unit: str) -> Iterator[Thing]:
    """Show how far an iteration has come."""
    with progress_bar(unit) as bar:
        task = bar.add_task(doing, total=total, note="")
        for thing in things:
            yield thing
            bar.advance(task)
