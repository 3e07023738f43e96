"""How the share of own words grows in scheduled sampling (Bengio et al. 2015, section 2.4), from 0 to `share`.

Theirs say how likely a true word is at step i; these say how likely an own word is once a share p of all steps is done.
"""

from __future__ import annotations

import math
from collections.abc import Callable

Schedule = Callable[[float], float]
"""(p: share of the steps that are done, 0 to 1) → share of own words, 0 to 1."""

_STEEPNESS = 10.0  # of the inverse sigmoid: a tenth of the way up at p = 0.28, nine tenths at 0.72


def linear(share: float) -> Schedule:
    """In proportion to the steps."""
    return lambda p: share * p


def exponential(share: float) -> Schedule:
    """True words decay exponentially: fast at first."""
    return lambda p: 1 - (1 - share) ** p


def inverse_sigmoid(share: float) -> Schedule:
    """Slow, then fast, then slow."""
    low, high = _sigmoid(-_STEEPNESS / 2), _sigmoid(_STEEPNESS / 2)
    return lambda p: share * (_sigmoid(_STEEPNESS * (p - 0.5)) - low) / (high - low)


def constant(share: float) -> Schedule:
    """The same from beginning to end."""
    return lambda p: share


def _sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))
