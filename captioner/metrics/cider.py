"""CIDEr and CIDEr-D of a set of captions (Vedantam et al. 2015), CIDEr-D to the last digit as COCO's evaluation has it.

Words in, numbers out. A caption is a vector of tf-idf weights of its n-grams; rare n-grams count more. An image's score
is ten times the mean cosine between candidate and references; CIDEr-D clips it, and damps it where the lengths differ.
How rare an n-gram is comes from the references of the scored images alone, so a score depends on which images are in
the set. COCO's tool computes CIDEr-D under the name CIDEr.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from captioner.metrics.ngrams import (
    ORDERS,
    Integers,
    NgramCounts,
    count_all,
    lengths_of,
    pair,
    split,
)

Floats = NDArray[np.float64]

CIDER_VERSION = "coco-1"
SIGMA = 6.0
"""Width, in words, of the Gaussian that damps a reference longer or shorter than the candidate."""

_LAST = np.iinfo(np.int64).max  # sorts after every pair


class Matches(NamedTuple):
    """Every n-gram of one order that a caption shares with a reference of its image."""

    caption: Integers  # (M,) which caption
    reference: Integers  # (M,) which of all references
    times: Integers  # (M,) how often the caption has the n-gram
    reference_times: Integers  # (M,) how often the reference has it
    weight: Floats  # (M,) its idf squared, divided by the lengths of both vectors


class ReferenceNgrams:
    """The n-grams of the references, counted and weighed once for all that is compared with them."""

    def __init__(self, references: Sequence[Sequence[Sequence[str]]]) -> None:
        """Take the tokenised references of each image: images x references x words. Each image has at least one."""
        captions = [words for image in references for words in image]
        self.sizes = lengths_of(references)  # references of each image
        self.lengths = pairs_in(captions)
        self._vocabulary: dict[str, int] = {}
        self._orders = [
            _Order(counts, self.sizes) for counts in count_all(captions, self._vocabulary)
        ]

    def match(self, images: Integers, captions: Sequence[Sequence[str]]) -> Iterator[Matches]:
        """Compare each tokenised caption with the references of its image, order by order."""
        known = np.zeros(
            1, np.int64
        )  # the number among the references of each n-gram of the order before
        for order, counts in zip(
            self._orders, count_all(captions, dict(self._vocabulary)), strict=True
        ):
            before, word = split(counts.kinds)
            known = order.find(pair(known[before], word))
            yield order.match(images, counts._replace(ngram=known[counts.ngram]))


class _Order:
    """An inverted index of the n-grams of one order: which references of an image have an n-gram, and how often."""

    def __init__(self, counts: NgramCounts, sizes: Integers) -> None:
        # The last is any n-gram that no reference has: it weighs as if one image had it.
        self._kinds = np.append(counts.kinds, _LAST)
        image = np.repeat(np.arange(len(sizes)), sizes)[counts.caption]
        places = pair(image, counts.ngram)
        by_image = np.argsort(places, kind="stable")
        self._reference, self._times = counts.caption[by_image], counts.times[by_image]
        places, having = np.unique(places, return_counts=True)
        # Of each n-gram of each image: how many references have it, and where the first stands in the two above.
        self._places, self._having = np.append(places, _LAST), np.append(having, 0)
        self._first = self._having.cumsum() - self._having
        images_with = np.append(np.bincount(split(places)[1], minlength=len(counts.kinds)), 1)
        self._idf = np.log(max(1, len(sizes))) - np.log(images_with)
        self._norms = self._norms_of(counts, sizes.sum())

    def find(self, kinds: Integers) -> Integers:
        """Give the number of each n-gram; those that no reference has share the last number."""
        numbers = np.searchsorted(self._kinds, kinds)
        return np.where(self._kinds[numbers] == kinds, numbers, len(self._kinds) - 1)

    def match(self, images: Integers, counts: NgramCounts) -> Matches:
        """Find what captions share with the references of their images."""
        wanted = pair(images[counts.caption], counts.ngram)
        place = np.searchsorted(self._places, wanted)
        having = np.where(self._places[place] == wanted, self._having[place], 0)
        mine = np.repeat(np.arange(len(wanted)), having)
        its = np.arange(len(mine)) + np.repeat(
            self._first[place] - having.cumsum() + having, having
        )
        caption, reference = counts.caption[mine], self._reference[its]
        norms = self._norms_of(counts, len(images))[caption] * self._norms[reference]
        weight = self._idf[counts.ngram[mine]] ** 2 / norms
        return Matches(caption, reference, counts.times[mine], self._times[its], weight)

    def _norms_of(self, counts: NgramCounts, captions: int) -> Floats:
        """Give the Euclidean length of each caption's weights: 1 instead of 0, so that one can divide by it."""
        squares = np.bincount(
            counts.caption, (counts.times * self._idf[counts.ngram]) ** 2, minlength=captions
        )
        return np.sqrt(np.where(squares > 0, squares, 1))


class Cider:
    """Scores captions against one set of references (equations 2 and 3)."""

    def __init__(self, references: ReferenceNgrams) -> None:
        self.references = references

    def score(self, candidates: Sequence[Sequence[str]]) -> tuple[float, list[float]]:
        """Give the mean score (0 to 10) and that of each image, for one tokenised caption per image, in order."""
        images = len(self.references.sizes)
        if len(candidates) != images:
            raise ValueError(f"there are {len(candidates)} candidates for {images} images")
        scores = self.score_each(range(images), candidates).tolist()
        return sum(scores) / max(1, images), scores

    def score_each(self, images: Sequence[int], captions: Sequence[Sequence[str]]) -> Floats:
        """Give the score (N,) of each of N tokenised captions of the images with these numbers, repeats allowed."""
        image = np.asarray(images, np.int64)
        lengths = pairs_in(captions)
        total = np.zeros(len(captions))
        for found in self.references.match(image, captions):
            longer = lengths[found.caption] - self.references.lengths[found.reference]
            cosine = self._product(found, longer) * found.weight
            total += np.bincount(found.caption, cosine, minlength=len(captions))
        return 10 / ORDERS * total / self.references.sizes[image]

    def _product(self, found: Matches, longer: Integers) -> Floats | Integers:
        return found.times * found.reference_times


class CiderD(Cider):
    """CIDEr that cannot be raised by repeating words or by captions longer than the references (section 4)."""

    def _product(self, found: Matches, longer: Integers) -> Floats:
        damping = np.exp(-(longer**2) / (2 * SIGMA**2))
        return damping * np.minimum(found.times, found.reference_times) * found.reference_times


def pairs_in(captions: Sequence[Sequence[str]]) -> Integers:
    """Give the word pairs of each, COCO's measure of length: captions of 0 and 1 words are alike."""
    return np.maximum(lengths_of(captions) - 1, 0)
