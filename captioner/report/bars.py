"""Histograms as inline SVG. The style sheet of the page sets their colors."""

from __future__ import annotations

import math
from collections.abc import Mapping
from html import escape

WIDTH, HEIGHT, AXIS_HEIGHT = 480, 150, 22  # of the bars, and of the axis below them
MAX_BARS = 40
MAX_TICKS = 6


def histogram(counts: Mapping[int, int], unit: str) -> str:
    """Return an SVG histogram of integers.

    Args:
        counts: how often each integer occurs, for at least one integer.
        unit: what the integers count, for example "words per caption"; it is escaped here.
    """
    step = _bin_width(max(counts) - min(counts) + 1)
    first = min(counts) // step
    bins = [0] * (max(counts) // step - first + 1)
    for value, count in counts.items():
        bins[value // step - first] += count
    width, largest = WIDTH / len(bins), max(bins)
    tick_every = math.ceil(len(bins) / MAX_TICKS)
    parts = []
    for index, count in enumerate(bins):
        low = (first + index) * step
        name = f"{low:,}" if step == 1 else f"{low:,} to {low + step - 1:,}"
        height = HEIGHT * count / largest
        parts.append(
            f'<rect x="{index * width + 0.5:.1f}" y="{HEIGHT - height:.1f}" '
            f'width="{max(0.5, width - 1):.1f}" height="{height:.1f}">'
            f"<title>{name} {escape(unit)}: {count:,}</title></rect>"
        )
        if index % tick_every == 0:
            parts.append(
                f'<text x="{(index + 0.5) * width:.1f}" y="{HEIGHT + AXIS_HEIGHT - 6}">'
                f"{low:,}</text>"
            )
    parts.append(f'<line x2="{WIDTH}" y1="{HEIGHT}" y2="{HEIGHT}"/>')
    label = escape(f"histogram of {unit}: from {min(counts):,} to {max(counts):,}", quote=True)
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT + AXIS_HEIGHT}" role="img" aria-label="{label}">'
        f"{''.join(parts)}</svg>"
    )


def _bin_width(span: int) -> int:
    """Return the smallest of 1, 2, 5, 10, 20, 50, ... with at most `MAX_BARS` bins in the span."""
    power = 1
    while span > 10 * power * MAX_BARS:
        power *= 10
    return next(power * factor for factor in (1, 2, 5, 10) if span <= power * factor * MAX_BARS)
