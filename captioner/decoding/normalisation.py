"""How captions of different lengths are ranked: by log-probability divided by what these give for the length."""

from __future__ import annotations

from collections.abc import Callable

Normalisation = Callable[[int], float]
"""Words, with <eos> → what the log-probability is divided by; it never falls as captions grow."""


def none(words: int) -> float:
    """Rank by probability alone, which favours short captions."""
    return 1.0


def average(words: int) -> float:
    """Rank by the mean log-probability of a word, which favours long captions."""
    return float(words)


def wu(alpha: float) -> Normalisation:
    """Lie between the two: ((5 + words) / 6) ** alpha (Wu et al. 2016, equation 14)."""
    return lambda words: float(((5 + words) / 6) ** alpha)
