"""chrF: the F-score of character n-grams (Popović 2015), equal to sacreBLEU's chrF2.

sacreBLEU gives the score of a whole set only. The counts of each text are needed for resamples.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

MAX_LENGTH = 6
"""The longest n-grams, in characters."""

BETA = 2
"""Recall has beta times the weight of precision."""


def chrf_statistics(output: str, references: Sequence[str]) -> NDArray[np.float64]:
    """Return 18 counts (18,) of one text; `chrf` of their sums over texts is chrF of the set.

    The counts, each for n = 1 to 6, are the output's n-grams, the reference's, and the matches. As
    in sacreBLEU, the reference is the first with the highest chrF, and the output's n-grams count
    only if the reference has n-grams of that length.
    """
    ngrams = _count_ngrams(output)
    rows = []
    for reference in map(_count_ngrams, references):
        totals = [counts.total() for counts in reference]
        ours = [
            counts.total() if total else 0 for counts, total in zip(ngrams, totals, strict=True)
        ]
        matches = [(x & y).total() for x, y in zip(ngrams, reference, strict=True)]  # clipped
        rows.append([*ours, *totals, *matches])
    columns = np.array(rows, dtype=np.float64).T  # (18, R) for R references
    best: NDArray[np.float64] = columns[:, chrf(columns).argmax()]  # the first of equals
    return best


def chrf(sums: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return chrF (S,), 0 to 1, from sums (18, S) of `chrf_statistics` over S samples of texts.

    Precision and recall are means over the lengths n for which both sides have n-grams.
    """
    ours, theirs, matches = sums.reshape(3, MAX_LENGTH, -1)  # (6, S) each
    counted = ours > 0  # then the references have n-grams of that length, too
    lengths = np.maximum(counted.sum(axis=0), 1)  # (S,)
    precision = np.where(counted, matches / np.maximum(ours, 1), 0).sum(axis=0) / lengths  # chrP
    recall = np.where(counted, matches / np.maximum(theirs, 1), 0).sum(axis=0) / lengths  # chrR
    weighted = BETA**2 * precision + recall  # 0 if nothing matches: the score is 0 too
    scores: NDArray[np.float64] = (
        (1 + BETA**2) * precision * recall / np.where(weighted > 0, weighted, 1)
    )
    return scores


def _count_ngrams(text: str) -> list[Counter[str]]:
    """Return how often the text has each n-gram of n = 1 to 6 characters; spaces are left out."""
    letters = "".join(text.split())
    return [
        Counter(letters[i : i + n] for i in range(len(letters) - n + 1))
        for n in range(1, MAX_LENGTH + 1)
    ]
