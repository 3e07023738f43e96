"""Corpus BLEU-1 to BLEU-4 (Papineni et al. 2002), numerically equal to COCO's evaluation tool.

The counts are summed over all images before they are divided. The reference length of an image is
that of the reference closest in length to the candidate; of two equally close, the shorter.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

BLEU_VERSION = "coco-1"

Number = TypeVar("Number", float, NDArray[np.float64])
"""A sum over images, or the array (S,) of the sums over S samples of images."""

# COCO's tool adds these to the numerator and the denominator of every ratio. The effect is visible
# only if there are few captions, or empty ones.
_TINY = 1e-15
_SMALL = 1e-9


MAX_ORDER = 4
"""The longest n-grams that BLEU and CIDEr compare."""


def count_ngrams(words: Sequence[str]) -> list[Counter[str]]:
    """Return how often the caption contains each n-gram: one counter for each n, 1 to `MAX_ORDER`.

    The words of an n-gram are joined by spaces. Strings are faster than tuples, because the garbage
    collector does not traverse them: counting a million n-grams takes half the time.
    """
    second, third, fourth = words[1:], words[2:], words[3:]
    bigrams = map(" ".join, zip(words, second, strict=False))
    trigrams = map(" ".join, zip(words, second, third, strict=False))
    fourgrams = map(" ".join, zip(words, second, third, fourth, strict=False))
    return [Counter(words), Counter(bigrams), Counter(trigrams), Counter(fourgrams)]


class Bleu:
    """BLEU against one set of references, whose n-grams are counted once."""

    def __init__(self, references: Sequence[Sequence[Sequence[str]]]) -> None:
        """Count tokenized references: images x references x words, at least one for each image."""
        self._lengths = [[len(words) for words in captions] for captions in references]
        self._max_counts = [_max_counts(captions) for captions in references]

    def score(self, candidates: Sequence[Sequence[str]]) -> tuple[float, float, float, float]:
        """Return BLEU-1 to BLEU-4 (0 to 1) of one tokenized candidate for each image, in order."""
        rows = self.statistics(candidates)
        return bleu([sum(column) for column in zip(*rows, strict=True)] or [0.0] * 10)

    def statistics(self, candidates: Sequence[Sequence[str]]) -> list[tuple[int, ...]]:
        """Return ten counts for each image; `bleu` of their sums over images is the corpus BLEU.

        The counts are the candidate length, the reference length, the matched n-grams for n = 1 to
        4, and the candidate's n-grams for n = 1 to 4.
        """
        rows = []
        for words, lengths, max_counts in zip(
            candidates, self._lengths, self._max_counts, strict=True
        ):
            closest = min(lengths, key=lambda length: (abs(length - len(words)), length))
            matches = [0] * MAX_ORDER
            for order, counts in enumerate(count_ngrams(words)):  # order is n - 1
                for ngram, count in counts.items():
                    matches[order] += min(count, max_counts.get(ngram, 0))  # clipped, section 2.1
            totals = [max(0, len(words) - order) for order in range(MAX_ORDER)]
            rows.append((len(words), closest, *matches, *totals))
        return rows


def bleu(sums: Sequence[Number]) -> tuple[Number, Number, Number, Number]:
    """Return BLEU-1 to BLEU-4 (0 to 1) from the sums of the ten columns of `Bleu.statistics`.

    Each sum is a number, or an array with one entry for each of S samples of images (S,); the
    results have the same shape. Papineni et al. 2002, section 2.3, with uniform weights 1/n.
    """
    length, reference_length, *counts = sums
    precisions = [
        (match + _TINY) / (total + _SMALL)
        for match, total in zip(counts[:MAX_ORDER], counts[MAX_ORDER:], strict=True)
    ]  # p_1 to p_4
    length_ratio = (length + _TINY) / (reference_length + _SMALL)  # c / r
    brevity_penalty = np.exp(np.minimum(0, 1 - 1 / length_ratio))
    bleu_1, bleu_2, bleu_3, bleu_4 = (
        brevity_penalty * math.prod(precisions[:n]) ** (1 / n)  # geometric mean of p_1 to p_n
        for n in range(1, MAX_ORDER + 1)
    )
    return bleu_1, bleu_2, bleu_3, bleu_4


def _max_counts(captions: Sequence[Sequence[str]]) -> dict[str, int]:
    """Return the largest count of each n-gram in any one reference (Max_Ref_Count, section 2.1)."""
    max_counts: dict[str, int] = {}
    for words in captions:
        for counts in count_ngrams(words):
            for ngram, count in counts.items():
                if count > max_counts.get(ngram, 0):
                    max_counts[ngram] = count
    return max_counts
