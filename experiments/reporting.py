"""Markdown tables, figures, and the name of the machine: parts of the pages of results."""

from __future__ import annotations

import platform
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from captioner.errors import UsageError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MISSING = "–"  # in a cell without a value


def markdown_table(lines: Iterable[Sequence[str]]) -> str:
    """Return a table, the first line as its head. Columns of numbers are aligned to the right."""
    head, *rows = lines
    is_number = [
        all(row[column][:1] in f"0123456789-{MISSING}" for row in rows)
        for column in range(len(head))
    ]
    rule = ["---:" if number else "---" for number in is_number]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (head, rule, *rows))


def new_figure(width: float, height: float) -> Figure:
    """Return an empty figure of a size in inches.

    Raises:
        UsageError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError:
        raise UsageError("the plot needs matplotlib: pip install 'captioner[train]'") from None
    return Figure(figsize=(width, height), layout="constrained")


def cpu_name() -> str:
    """Return the model name of the CPU."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(
            line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")
        )
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def machine_name() -> str:
    """Return the CPU and the version of torch."""
    import torch

    return f"{cpu_name()}, torch {torch.__version__}"
