"""How far a confidence can be believed, and the temperature that makes it believable. Knows neither models nor tensors.

A word of a caption is right if one of the people who described the image said it too. A model's probability p of a word
is no probability of that: of many right words it can say but one. p ** (1 / temperature) is, for the temperature that
fits; the confidence of a caption is the mean of its words', and stands for the share of them that are right.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import chain
from statistics import fmean
from typing import NamedTuple

BINS = 10
_LOWEST, _HIGHEST = 0.05, 20.0  # temperatures that are tried


class Said(NamedTuple):
    """A word that a model said."""

    log_prob: float
    right: bool


def confidence(log_prob: float, temperature: float) -> float:
    """Give the confidence, 0 to 1, of a word of this log-probability."""
    return math.exp(log_prob / temperature)


def fit_temperature(captions: Sequence[Sequence[Said]]) -> float:
    """Find the temperature with the smallest mean log loss of words, by golden-section search on its logarithm."""
    words = list(chain.from_iterable(captions))
    low, high = math.log(_LOWEST), math.log(_HIGHEST)
    golden = (math.sqrt(5) - 1) / 2
    while high - low > 1e-4:
        left, right = high - golden * (high - low), low + golden * (high - low)
        if _log_loss(words, math.exp(left)) < _log_loss(words, math.exp(right)):
            high = right
        else:
            low = left
    return math.exp((low + high) / 2)


def calibration_error(captions: Sequence[Sequence[Said]], temperature: float) -> float:
    """Give the expected calibration error of captions (Guo et al. 2017, equation 3), 0 to 1.

    Captions are sorted into `BINS` equally wide bins by confidence; the error is the distance between mean confidence
    and share of right words in a bin, averaged over captions.
    """
    bins: list[list[tuple[float, float]]] = [[] for _ in range(BINS)]
    for words in filter(None, captions):
        sure = fmean(confidence(word.log_prob, temperature) for word in words)
        bins[min(int(sure * BINS), BINS - 1)].append((sure, fmean(word.right for word in words)))
    total = sum(map(len, bins))
    gaps = (abs(sum(sure - right for sure, right in members)) for members in bins)
    return sum(gaps) / max(1, total)


def unseen_error(captions: Sequence[Sequence[Said]]) -> float:
    """Give the calibration error on captions that the temperature was not fitted on: each half with the other's."""
    halves = captions[::2], captions[1::2]
    errors = [
        calibration_error(mine, fit_temperature(other)) * len(mine)
        for mine, other in (halves, halves[::-1])
    ]
    return sum(errors) / max(1, len(captions))


def _log_loss(words: Sequence[Said], temperature: float) -> float:
    total = 0.0
    for word in words:
        logarithm = min(
            word.log_prob / temperature, -1e-9
        )  # a word that is certain and wrong is not infinitely bad
        total -= logarithm if word.right else math.log(-math.expm1(logarithm))
    return total / max(1, len(words))
