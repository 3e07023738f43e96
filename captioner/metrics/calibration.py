"""Calibration of word confidences by a temperature, and the expected calibration error of captions.

A generated word is correct if some reference of the image contains it. The probability p that the
model assigns to a word underestimates that, because several words are correct but the probabilities
of all words sum to 1. The confidence of a word is therefore p ** (1 / temperature), with a
temperature fitted to annotated images. The confidence of a caption is the mean over its words; it
estimates the share of its words that are correct.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import chain
from statistics import fmean
from typing import NamedTuple

NUM_BINS = 10
_MIN_TEMPERATURE, _MAX_TEMPERATURE = 0.05, 20.0


class GeneratedWord(NamedTuple):
    """A word that a model generated."""

    log_prob: float
    correct: bool


def fit_temperature(captions: Sequence[Sequence[GeneratedWord]]) -> float:
    """Return the temperature with the smallest mean log loss over all words.

    The search is a golden-section search over the logarithm of the temperature.
    """
    words = list(chain.from_iterable(captions))
    low, high = math.log(_MIN_TEMPERATURE), math.log(_MAX_TEMPERATURE)
    golden = (math.sqrt(5) - 1) / 2
    while high - low > 1e-4:
        left, right = high - golden * (high - low), low + golden * (high - low)
        if _log_loss(words, math.exp(left)) < _log_loss(words, math.exp(right)):
            high = right
        else:
            low = left
    return math.exp((low + high) / 2)


def calibration_error(captions: Sequence[Sequence[GeneratedWord]], temperature: float) -> float:
    """Return the expected calibration error, 0 to 1 (Guo et al. 2017, equation 3).

    The captions are grouped by confidence into `NUM_BINS` bins of equal width. The error is the
    mean over captions of |accuracy - confidence| of their bin. Captions without words are left out.
    """
    bins: list[list[tuple[float, float]]] = [[] for _ in range(NUM_BINS)]
    for words in filter(None, captions):
        caption_confidence = fmean(math.exp(word.log_prob / temperature) for word in words)
        accuracy = fmean(word.correct for word in words)
        bin_index = min(int(caption_confidence * NUM_BINS), NUM_BINS - 1)
        bins[bin_index].append((caption_confidence, accuracy))
    total = sum(map(len, bins))
    # |B_m| · |acc(B_m) - conf(B_m)|: the factor |B_m| turns the means over the bin into sums.
    gaps = (abs(sum(confident - accurate for confident, accurate in members)) for members in bins)
    return sum(gaps) / max(1, total)


def cross_fitted_error(captions: Sequence[Sequence[GeneratedWord]]) -> float:
    """Return the calibration error by 2-fold cross-fitting.

    The temperature for each half of the captions is fitted on the other half.
    """
    halves = captions[::2], captions[1::2]
    errors = [
        calibration_error(held_out, fit_temperature(fitted)) * len(held_out)
        for held_out, fitted in (halves, halves[::-1])
    ]
    return sum(errors) / max(1, len(captions))


def _log_loss(words: Sequence[GeneratedWord], temperature: float) -> float:
    """Return the mean binary cross-entropy of the words' confidences."""
    total = 0.0
    for word in words:
        # The bound keeps the loss of an incorrect word with probability 1 finite.
        log_confidence = min(word.log_prob / temperature, -1e-9)
        total -= log_confidence if word.correct else math.log(-math.expm1(log_confidence))
    return total / max(1, len(words))
