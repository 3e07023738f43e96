"""Counts → bars, as inline SVG that takes its colours from the page."""

from __future__ import annotations

import math
from collections.abc import Mapping
from html import escape

WIDTH, HEIGHT, FOOT = 480, 150, 22  # of the drawing, and of its axis below the bars
MOST_BARS = 40
TICKS = 6


def histogram(counts: Mapping[int, int], unit: str) -> str:
    """Draw how often each number occurs, in equal bins with round ends where there are many."""
    step = _step(max(counts) - min(counts) + 1)
    first = min(counts) // step
    bins = [0] * (max(counts) // step - first + 1)
    for value, count in counts.items():
        bins[value // step - first] += count
    bar, most = WIDTH / len(bins), max(bins)
    every = math.ceil(len(bins) / TICKS)
    parts = []
    for place, count in enumerate(bins):
        low = (first + place) * step
        name = f"{low:,}" if step == 1 else f"{low:,} to {low + step - 1:,}"
        tall = HEIGHT * count / most
        parts.append(
            f'<rect x="{place * bar + 0.5:.1f}" y="{HEIGHT - tall:.1f}" width="{max(0.5, bar - 1):.1f}" '
            f'height="{tall:.1f}"><title>{name} {escape(unit)}: {count:,}</title></rect>'
        )
        if place % every == 0:
            parts.append(
                f'<text x="{(place + 0.5) * bar:.1f}" y="{HEIGHT + FOOT - 6}">{low:,}</text>'
            )
    parts.append(f'<line x2="{WIDTH}" y1="{HEIGHT}" y2="{HEIGHT}"/>')
    label = escape(f"histogram of {unit}: from {min(counts):,} to {max(counts):,}", quote=True)
    return f'<svg viewBox="0 0 {WIDTH} {HEIGHT + FOOT}" role="img" aria-label="{label}">{"".join(parts)}</svg>'


def _step(span: int) -> int:
    """Give the smallest round width of a bin with which the span takes no more than `MOST_BARS`."""
    power = 1
    while span > 10 * power * MOST_BARS:
        power *= 10
    return next(power * factor for factor in (1, 2, 5, 10) if span <= power * factor * MOST_BARS)
