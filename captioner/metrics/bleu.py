"""BLEU-1 to 4 of a set of captions (Papineni et al. 2002), to the last digit as COCO's own evaluation computes them.

Words in, fractions out. Counts are summed over all images and divided once; the reference length of an image is the
one closest to the candidate's, the shorter of two equally close.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from captioner.metrics.ngrams import ORDERS, count_ngrams, orders

BLEU_VERSION = "coco-1"

Number = TypeVar("Number", float, NDArray[np.float64])

# COCO adds these to numerator and denominator of every ratio, which shows when a caption set is tiny or empty.
_TINY = 1e-15
_SMALL = 1e-9


class Bleu:
    """Scores candidates against one set of references, whose n-grams are counted once."""

    def __init__(self, references: Sequence[Sequence[Sequence[str]]]) -> None:
        """Take the tokenised references of each image: images x references x words. Each image has at least one."""
        self._lengths = [[len(words) for words in captions] for captions in references]
        self._limits = [_most_in_one(captions) for captions in references]

    def score(self, candidates: Sequence[Sequence[str]]) -> tuple[float, float, float, float]:
        """Give BLEU-1, 2, 3, 4 as fractions for one tokenised caption per image, in the references' order."""
        rows = self.statistics(candidates)
        return bleu([sum(column) for column in zip(*rows, strict=True)] or [0.0] * (2 + 2 * ORDERS))

    def statistics(self, candidates: Sequence[Sequence[str]]) -> list[tuple[int, ...]]:
        """Count, for each image, what `bleu` makes a score of: the sums over any images give the BLEU of those images.

        A row holds ten counts: words, words of the closest reference, matched n-grams and all n-grams for n = 1 to 4.
        """
        rows = []
        for words, lengths, limits in zip(candidates, self._lengths, self._limits, strict=True):
            closest = min(lengths, key=lambda n: (abs(n - len(words)), n))
            matches = [0] * ORDERS
            counts = count_ngrams(words)
            for n, (ngram, count) in zip(orders(counts), counts.items(), strict=True):
                matches[n] += min(count, limits.get(ngram, 0))
            totals = [max(0, len(words) - n) for n in range(ORDERS)]
            rows.append((len(words), closest, *matches, *totals))
        return rows


def bleu(sums: Sequence[Number]) -> tuple[Number, Number, Number, Number]:
    """Give BLEU-1, 2, 3, 4 as fractions from the sums of the ten columns of `Bleu.statistics`.

    Each sum may be an array, with a place for each of many samples of images: so are the fractions then.
    """
    length, reference_length, *counts = sums
    precisions = [
        (match + _TINY) / (total + _SMALL)
        for match, total in zip(counts[:ORDERS], counts[ORDERS:], strict=True)
    ]
    ratio = (length + _TINY) / (reference_length + _SMALL)
    penalty = np.exp(np.minimum(0, 1 - 1 / ratio))
    one, two, three, four = (
        penalty * math.prod(precisions[:n]) ** (1 / n) for n in range(1, ORDERS + 1)
    )
    return one, two, three, four


def _most_in_one(captions: Sequence[Sequence[str]]) -> dict[str, int]:
    """Give for each n-gram the most times it appears in any one caption: more than that earns a candidate nothing."""
    most: dict[str, int] = {}
    for words in captions:
        for ngram, count in count_ngrams(words).items():
            if count > most.get(ngram, 0):
                most[ngram] = count
    return most
