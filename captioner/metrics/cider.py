"""CIDEr and CIDEr-D of a set of captions (Vedantam et al. 2015), CIDEr-D to the last digit as COCO's evaluation has it.

Words in, numbers out. A caption is a vector of tf-idf weights of its n-grams; rare n-grams count more. An image's score
is ten times the mean cosine between candidate and references; CIDEr-D clips it, and damps it where the lengths differ.
How rare an n-gram is comes from the references of the scored images alone, so a score depends on which images are in
the set. COCO's tool computes CIDEr-D under the name CIDEr.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import repeat
from typing import NamedTuple

from captioner.metrics.ngrams import ORDERS, count_ngrams, orders

CIDER_VERSION = "coco-1"
SIGMA = 6.0
"""Width, in words, of the Gaussian that damps a reference longer or shorter than the candidate."""


class _Vector(NamedTuple):
    """A caption as CIDEr sees it. The weight of an n-gram is its count times its idf."""

    counts: Mapping[str, int]
    norms: list[float]  # Euclidean length of the weights, for each order
    length: int


class Cider:
    """Scores candidates against one set of references, whose n-grams are counted once (equations 2 and 3)."""

    def __init__(self, references: Sequence[Sequence[Sequence[str]]]) -> None:
        """Take the tokenised references of each image: images x references x words. Each image has at least one."""
        counts = [[count_ngrams(words) for words in captions] for captions in references]
        images_with = Counter(ngram for image in counts for ngram in set().union(*image))
        self._unseen = math.log(max(1, len(counts)))  # idf of an n-gram of no reference: as if one image had it
        idf_of = {images: self._unseen - math.log(images) for images in set(images_with.values())}
        self._idf = {ngram: idf_of[images] for ngram, images in images_with.items()}
        self._images = [[self._vector(caption) for caption in image] for image in counts]

    def score(self, candidates: Sequence[Sequence[str]]) -> tuple[float, list[float]]:
        """Give the mean score (0 to 10) and that of each image, for one tokenised caption per image, in order."""
        scores = []
        for words, references in zip(candidates, self._images, strict=True):
            candidate = self._vector(count_ngrams(words))
            total = sum(self._similarity(candidate, reference) for reference in references)
            scores.append(10.0 * total / len(references))
        return sum(scores) / max(1, len(scores)), scores

    def _vector(self, counts: Mapping[str, int]) -> _Vector:
        squares = [0.0] * ORDERS
        totals = [0] * ORDERS
        idfs = map(self._idf.get, counts, repeat(self._unseen))
        for n, count, idf in zip(orders(counts), counts.values(), idfs, strict=True):
            squares[n] += (count * idf) * (count * idf)
            totals[n] += count
        # COCO's code takes the number of word pairs for the length, so that captions of 0 and 1 words are alike.
        return _Vector(counts, [math.sqrt(square) for square in squares], length=totals[1])

    def _similarity(self, candidate: _Vector, reference: _Vector) -> float:
        """Give the mean over the orders of the cosine between two captions."""
        dots = [0.0] * ORDERS
        # In the candidate's order: that of a set changes from run to run, and with it the sum's last digit.
        shared = [ngram for ngram in candidate.counts if ngram in reference.counts]
        for n, ngram in zip(orders(shared), shared, strict=True):
            dots[n] += self._product(candidate.counts[ngram], reference.counts[ngram]) * self._idf[ngram] ** 2
        norms = zip(dots, candidate.norms, reference.norms, strict=True)
        return sum(dot / (mine * its) for dot, mine, its in norms if mine and its) / ORDERS

    def _product(self, count: int, reference_count: int) -> int:
        return count * reference_count


class CiderD(Cider):
    """CIDEr that cannot be raised by repeating words or by captions longer than the references (section 4)."""

    def _similarity(self, candidate: _Vector, reference: _Vector) -> float:
        damping = math.exp(-((candidate.length - reference.length) ** 2) / (2 * SIGMA**2))
        return damping * super()._similarity(candidate, reference)

    def _product(self, count: int, reference_count: int) -> int:
        return min(count, reference_count) * reference_count
