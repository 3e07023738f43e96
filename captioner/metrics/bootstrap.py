"""How far a score could have fallen otherwise, had other images of the same kind been scored (Efron 1979).

Images are drawn anew, with repetition, a thousand times, and scored each time. This knows no metric: a metric hands in
what it counted of each image, and makes scores of the sums. The draws are the same in every run. With few images
(fewer than 30, say) the intervals are too narrow.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 1_000
LEVEL = 0.95
"""How often an interval should hold the score of all images of the kind."""
_SEED = 0


def resample(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    """Draw as many rows as there are, with repetition, and sum each column: (rows, columns) → (columns, RESAMPLES)."""
    rng = np.random.default_rng(_SEED)
    number = len(rows)
    draws = (rng.integers(number, size=number) for _ in range(RESAMPLES))
    return np.stack([np.bincount(draw, minlength=number) @ rows for draw in draws], axis=1)


def interval(samples: NDArray[np.float64]) -> tuple[float, float]:
    """Give the percentile interval of a score's samples (RESAMPLES,): where the middle 95 % of them lie."""
    low, high = np.quantile(samples, [(1 - LEVEL) / 2, (1 + LEVEL) / 2]).tolist()
    return low, high
