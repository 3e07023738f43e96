"""What people see while they wait: everything here goes to stderr, so that stdout holds nothing but results."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
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

Thing = TypeVar("Thing")
Result = TypeVar("Result")


def one_line(text: object) -> str:
    """Write a text on one line of a terminal, which no character of it can lead astray."""
    return "".join(letter if letter.isprintable() else " " for letter in str(text))


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


def readable(
    things: Sequence[Thing], results: Iterable[Result | ImageError], *, doing: str
) -> Iterator[tuple[Thing, Result]]:
    """Pair things with what was found of their images, as it comes; images that cannot be read are named, left out."""
    for thing, result in zip(
        things, track(results, total=len(things), doing=doing, unit="images"), strict=True
    ):
        if isinstance(result, ImageError):
            console.print(f"captioner: {result}", markup=False)
        else:
            yield thing, result
