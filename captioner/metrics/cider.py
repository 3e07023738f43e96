"""CIDEr-D of a set of captions (Vedantam et al. 2015), to the last digit as COCO's own evaluation computes it.

Words in, numbers out. A caption is a vector of tf-idf weights of its n-grams; rare n-grams count more. An image's score
is ten times the mean cosine between candidate and references, clipped and damped where the lengths differ. How rare an
n-gram is comes from the references of the scored images alone, so a score depends on which images are in the set.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from captioner.metrics.ngrams import ORDERS, NGram, count_ngrams

CIDER_VERSION = "coco-1"
SIGMA = 6.0
"""Width, in words, of the Gaussian that damps a reference longer or shorter than the candidate."""


class _Image(NamedTuple):
    """One image's references, turned round: from an n-gram to the references that hold it."""

    weights: dict[NGram, list[tuple[int, float]]]  # n-gram → (reference's index, its tf-idf weight there)
    norms: list[list[float]]  # references x orders
    lengths: list[int]


class CiderD:
    """Scores candidates against one set of references, whose weights are computed once."""

    def __init__(self, references: Sequence[Sequence[Sequence[str]]]) -> None:
        """Take the tokenised references of each image: images x references x words. Each image has at least one."""
        counts = [[count_ngrams(words) for words in captions] for captions in references]
        images_with = Counter(ngram for image in counts for ngram in set().union(*image))
        self._unseen = math.log(max(1, len(counts)))  # idf of an n-gram of no reference: as if one image had it
        self._idf = {ngram: self._unseen - math.log(images) for ngram, images in images_with.items()}
        self._images = [self._weigh(image) for image in counts]

    def score(self, candidates: Sequence[Sequence[str]]) -> tuple[float, list[float]]:
        """Give the mean CIDEr-D (0 to 10) and that of each image, for one tokenised caption per image, in order."""
        scores = [self._score_image(words, image) for words, image in zip(candidates, self._images, strict=True)]
        return sum(scores) / max(1, len(scores)), scores

    def _weigh(self, captions: Sequence[Mapping[NGram, int]]) -> _Image:
        weights: dict[NGram, list[tuple[int, float]]] = defaultdict(list)
        for index, counts in enumerate(captions):
            for ngram, count in counts.items():
                weights[ngram].append((index, count * self._idf[ngram]))
        norms = [self._norms(counts) for counts in captions]
        return _Image(dict(weights), norms, [_length(counts) for counts in captions])

    def _norms(self, counts: Mapping[NGram, int]) -> list[float]:
        """Give the Euclidean length of the tf-idf vector of each order."""
        squares = [0.0] * ORDERS
        for ngram, count in counts.items():
            squares[len(ngram) - 1] += (count * self._idf.get(ngram, self._unseen)) ** 2
        return [math.sqrt(square) for square in squares]

    def _score_image(self, words: Sequence[str], image: _Image) -> float:
        counts = count_ngrams(words)
        dots = [[0.0] * ORDERS for _ in image.lengths]  # references x orders
        for ngram, count in counts.items():
            if ngram in image.weights:
                weight, order = count * self._idf[ngram], len(ngram) - 1
                for index, reference_weight in image.weights[ngram]:
                    # The D of CIDEr-D: repeating a word earns no more than the reference holds of it.
                    dots[index][order] += min(weight, reference_weight) * reference_weight
        norms, length = self._norms(counts), _length(counts)
        total = 0.0
        for dot, reference_norms, reference_length in zip(dots, image.norms, image.lengths, strict=True):
            cosines = sum(d / (a * b) for d, a, b in zip(dot, norms, reference_norms, strict=True) if a and b)
            total += cosines * math.exp(-((length - reference_length) ** 2) / (2 * SIGMA**2))
        return 10.0 * total / ORDERS / len(image.lengths)


def _length(counts: Mapping[NGram, int]) -> int:
    """Count the pairs of words: what COCO's code takes for a caption's length, so that 0 and 1 words are alike."""
    return sum(count for ngram, count in counts.items() if len(ngram) == 2)
