"""What the pages that scripts write are made of: tables in Markdown, plots, and what the figures come from."""

from __future__ import annotations

import platform
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from captioner.errors import UsageError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NOTHING = "–"


def markdown(lines: Iterable[Sequence[str]]) -> str:
    """Draw a table; what is a number stands to the right."""
    head, *rows = lines
    numbers = [
        all(row[place][:1] in f"0123456789-{NOTHING}" for row in rows) for place in range(len(head))
    ]
    rule = ["---:" if number else "---" for number in numbers]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (head, rule, *rows))


def new_figure(width: float, height: float) -> Figure:
    """Begin a plot of so many inches.

    Raises:
        UsageError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError:
        raise UsageError("the plot needs matplotlib: pip install 'captioner[train]'") from None
    return Figure(figsize=(width, height), layout="constrained")


def cpu() -> str:
    """Name the processor that figures come from."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(
            line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")
        )
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
