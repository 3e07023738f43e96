"""Calibration: a temperature for the confidence of captions, and a threshold below which to doubt.

A generated word is correct if some reference of the image contains it. The probability p that the
model assigns to a word underestimates that, because several words are correct but the probabilities
of all words sum to 1. The confidence of a word is therefore p ** (1 / temperature), with a
temperature fitted to annotated images. The confidence of a caption is the mean over its words; it
estimates the share of its words that are correct.

A caption is right if at least `RIGHT_SHARE` of its words are correct. Captions with a confidence
below a threshold, fitted to the same images, are unsure.

Both are fitted to the captions of one or more data sets. Each data set has the same weight, however
many images it has.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from statistics import fmean
from typing import NamedTuple

NUM_BINS = 10
RIGHT_SHARE = 0.75
_MIN_TEMPERATURE, _MAX_TEMPERATURE = 0.05, 20.0


class GeneratedWord(NamedTuple):
    """A word that a model generated."""

    log_prob: float
    correct: bool


class ScoredCaption(NamedTuple):
    """A caption with the confidence that a calibration gives it, and with what is true of it."""

    confidence: float
    accuracy: float  # the share of its words that are correct
    sure: bool  # its confidence is not below the threshold

    @property
    def right(self) -> bool:
        """Return whether enough of its words are correct."""
        return self.accuracy >= RIGHT_SHARE


class SurenessRates(NamedTuple):
    """How well `sure` separates captions. A rate of no captions is not a number."""

    unsure: float  # the share of captions that are unsure
    right_if_sure: float  # the share of right captions among the sure ones
    right_if_unsure: float
    accuracy_if_sure: float  # the mean share of correct words of the sure captions
    accuracy_if_unsure: float


def fit_temperature(*data_sets: Sequence[Sequence[GeneratedWord]]) -> float:
    """Return the temperature with the smallest log loss: the mean over data sets of their means.

    The search is a golden-section search over the logarithm of the temperature.
    """
    per_data_set = [[word for caption in captions for word in caption] for captions in data_sets]

    def loss(log_temperature: float) -> float:
        temperature = math.exp(log_temperature)
        return fmean(_log_loss(words, temperature) for words in per_data_set)

    low, high = math.log(_MIN_TEMPERATURE), math.log(_MAX_TEMPERATURE)
    golden = (math.sqrt(5) - 1) / 2
    while high - low > 1e-4:
        left, right = high - golden * (high - low), low + golden * (high - low)
        if loss(left) < loss(right):
            high = right
        else:
            low = left
    return math.exp((low + high) / 2)


def fit_threshold(
    *data_sets: Sequence[Sequence[GeneratedWord]], temperature: float
) -> float | None:
    """Return the confidence that best separates right from wrong captions.

    It maximises J = (share of right captions that are sure) + (share of wrong captions that are
    unsure) - 1 (Youden 1950, "Index for rating diagnostic tests"), which does not depend on how
    many captions are right. The threshold is half-way between two confidences, so that rounding
    changes no decision.

    Returns None if all captions are right, if none is, or if no threshold has a J above 0.
    """
    weighted: list[tuple[float, bool, float]] = []  # confidence, right, weight
    for captions in data_sets:
        scored = score_captions(captions, temperature)
        weighted += [(each.confidence, each.right, 1 / len(scored)) for each in scored]
    weighted.sort()
    total_right = sum(weight for _, right, weight in weighted if right)
    total_wrong = sum(weight for _, right, weight in weighted if not right)
    if not total_right or not total_wrong:
        return None
    # The threshold rises past one caption after the other. Each becomes unsure, which raises J if
    # it is wrong, and lowers J if it is right.
    threshold, best, youden = None, 0.0, 0.0
    for (confidence, right, weight), (following, *_) in pairwise(weighted):
        youden += -weight / total_right if right else weight / total_wrong
        if youden > best and confidence < following:
            threshold, best = (confidence + following) / 2, youden
    return threshold


def score_captions(
    captions: Sequence[Sequence[GeneratedWord]], temperature: float, threshold: float | None = None
) -> list[ScoredCaption]:
    """Return the captions that have words, with their confidences and accuracies.

    Without a threshold all of them are sure.
    """
    scored = []
    for words in filter(None, captions):
        confidence = fmean(math.exp(word.log_prob / temperature) for word in words)
        accuracy = fmean(word.correct for word in words)
        scored.append(ScoredCaption(confidence, accuracy, confidence >= (threshold or 0.0)))
    return scored


def cross_fit(*data_sets: Sequence[Sequence[GeneratedWord]]) -> list[list[ScoredCaption]]:
    """Return the scored captions of each data set, by 2-fold cross-fitting.

    The temperature and the threshold for one half of every data set, the captions at even or at
    odd positions, are fitted on the other halves. The captions at even positions come first.
    """
    halves = [[captions[start::2] for captions in data_sets] for start in (0, 1)]
    scored: list[list[ScoredCaption]] = [[] for _ in data_sets]
    for held_out, fitted in (halves, halves[::-1]):
        temperature = fit_temperature(*fitted)
        threshold = fit_threshold(*fitted, temperature=temperature)
        for results, captions in zip(scored, held_out, strict=True):
            results += score_captions(captions, temperature, threshold)
    return scored


def calibration_error(scored: Sequence[ScoredCaption]) -> float:
    """Return the expected calibration error, 0 to 1 (Guo et al. 2017, equation 3).

    The captions are grouped by confidence into `NUM_BINS` bins of equal width. The error is the
    mean over captions of |accuracy - confidence| of their bin.
    """
    bins: list[list[ScoredCaption]] = [[] for _ in range(NUM_BINS)]
    for caption in scored:
        bin_index = min(int(caption.confidence * NUM_BINS), NUM_BINS - 1)
        bins[bin_index].append(caption)
    # |B_m| · |acc(B_m) - conf(B_m)|: the factor |B_m| turns the means over the bin into sums.
    gaps = (abs(sum(each.confidence - each.accuracy for each in members)) for members in bins)
    return sum(gaps) / max(1, len(scored))


def sureness_rates(scored: Sequence[ScoredCaption]) -> SurenessRates:
    """Return how many captions are unsure, and how good the sure and the unsure ones are."""
    sure = [caption for caption in scored if caption.sure]
    unsure = [caption for caption in scored if not caption.sure]
    return SurenessRates(
        unsure=_mean([not caption.sure for caption in scored]),
        right_if_sure=_mean([caption.right for caption in sure]),
        right_if_unsure=_mean([caption.right for caption in unsure]),
        accuracy_if_sure=_mean([caption.accuracy for caption in sure]),
        accuracy_if_unsure=_mean([caption.accuracy for caption in unsure]),
    )


def _mean(values: Sequence[float]) -> float:
    return fmean(values) if values else math.nan


def _log_loss(words: Sequence[GeneratedWord], temperature: float) -> float:
    """Return the mean binary cross-entropy of the words' confidences."""
    total = 0.0
    for word in words:
        # The bound keeps the loss of an incorrect word with probability 1 finite.
        log_confidence = min(word.log_prob / temperature, -1e-9)
        total -= log_confidence if word.correct else math.log(-math.expm1(log_confidence))
    return total / max(1, len(words))
