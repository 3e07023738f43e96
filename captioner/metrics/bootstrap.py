"""Bootstrap confidence intervals of a corpus metric (Efron 1979).

A resample draws as many images as there are, with replacement. A metric provides statistics of each
image, which are summed over a resample, and computes a score from the sums. The draws are the same
in every run. With fewer than about 30 images the intervals are too narrow.
"""

from __future__ import annotations

from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 1_000
CONFIDENCE_LEVEL = 0.95
"""The probability that an interval contains the score of the population of images."""
_SEED = 0

Number = TypeVar("Number", float, NDArray[np.float64])
"""A sum over images, or the array (S,) of the sums over S resamples."""


def resample_sums(statistics: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the sums of each column over each resample: (images, C) -> (C, RESAMPLES)."""
    rng = np.random.default_rng(_SEED)
    images = len(statistics)
    draws = (rng.integers(images, size=images) for _ in range(RESAMPLES))  # (images,) each
    # A product with the counts of the draws is faster than a sum over the drawn rows.
    return np.stack([np.bincount(draw, minlength=images) @ statistics for draw in draws], axis=1)


def percentile_interval(samples: NDArray[np.float64]) -> tuple[float, float]:
    """Return the percentile interval: the bounds of the middle 95 % of the samples (RESAMPLES,)."""
    quantiles = (1 - CONFIDENCE_LEVEL) / 2, (1 + CONFIDENCE_LEVEL) / 2
    low, high = np.quantile(samples, quantiles).tolist()
    return low, high
