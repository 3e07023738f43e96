"""Which pictures look alike, from their thumbnails: a hash finds candidates among many, a correlation confirms them.

The hash is dHash (Krawetz 2013, "Kind of like that"): 64 bits, each whether a part is lighter than the one to its left.
It survives other sizes, encodings and brightness, but two beaches, or two drawings, may share it by chance.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from captioner.console import track
from captioner.data.inspection import COLUMNS, ROWS

NEAR = 8
"""Bits of 64 in which the hashes of near-duplicates differ at most."""

ALIKE = 0.95
"""Correlation of their thumbnails' 216 values, at least."""

LUMINANCE = (0.299, 0.587, 0.114)
BLOCK = 4_000_000  # pairs compared at a time: 32 MB

Thumbnails = NDArray[np.uint8]
"""(n, ROWS, COLUMNS, 3) RGB."""


class Twin(NamedTuple):
    """Two pictures that look alike, by their places in what was compared."""

    known: int
    asked: int
    bits: int  # in which their hashes differ
    correlation: float


def stack(thumbnails: Sequence[bytes]) -> Thumbnails:
    """Give thumbnails (n, ROWS, COLUMNS, 3) from their bytes."""
    return np.frombuffer(b"".join(thumbnails), dtype=np.uint8).reshape(-1, ROWS, COLUMNS, 3)


def difference_hashes(thumbnails: Thumbnails) -> NDArray[np.uint64]:
    """Give the dHash (n,) of each."""
    grey = thumbnails @ np.array(LUMINANCE, dtype=np.float32)  # (n, ROWS, COLUMNS)
    bits = np.packbits(grey[..., 1:] > grey[..., :-1], axis=-1)  # (n, ROWS, 1)
    return bits.reshape(-1, ROWS).view(np.uint64).ravel()


def twins(known: Thumbnails, asked: Thumbnails) -> Iterator[Twin]:
    """Give, for each picture `asked` for that looks like any `known` one, the one that it looks like most.

    All hashes are compared with all, block by block: little memory, and no pair is missed.
    """
    hashes, others = difference_hashes(known), difference_hashes(asked)
    rows = max(1, BLOCK // max(1, len(known)))
    starts = range(0, len(asked), rows)
    for start in track(starts, total=len(starts), doing="comparing splits", unit="blocks"):
        bits = np.bitwise_count(others[start : start + rows, None] ^ hashes)  # (rows, known)
        near = bits <= NEAR
        for row in np.flatnonzero(near.any(axis=1)):
            candidates = np.flatnonzero(near[row])
            alike = _correlations(known[candidates], asked[start + row])  # (candidates,)
            best = int(alike.argmax())
            if alike[best] >= ALIKE:
                chosen = int(candidates[best])
                yield Twin(chosen, start + int(row), int(bits[row, chosen]), float(alike[best]))


def _correlations(many: Thumbnails, one: Thumbnails) -> NDArray[np.float32]:
    """Correlate thumbnails (n, ROWS, COLUMNS, 3) with one (ROWS, COLUMNS, 3); an even surface with nothing."""
    values = many.reshape(len(many), -1).astype(np.float32)  # (n, ROWS * COLUMNS * 3)
    values -= values.mean(axis=1, keepdims=True)
    other = one.ravel().astype(np.float32) - one.mean(dtype=np.float32)
    size = np.linalg.norm(values, axis=1) * np.linalg.norm(other)
    return values @ other / np.maximum(size, 1e-6)  # type: ignore[no-any-return]
