"""CIDEr and CIDEr-D (Vedantam et al. 2015); CIDEr-D is numerically equal to COCO's evaluation tool.

A caption is a vector of the tf-idf weights of its n-grams, one vector for each order n. The score
of an image is ten times the mean cosine similarity of the candidate and the references. CIDEr-D
also clips the candidate's counts, and lowers the score if the lengths differ. COCO's tool calls
CIDEr-D "CIDEr".

The document frequencies come from the references of the scored images only, so a score depends on
which images are in the set.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from captioner.metrics.bleu import MAX_ORDER

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

CIDER_VERSION = "coco-1"
SIGMA = 6.0
"""Width in words of the Gaussian length penalty of CIDEr-D."""

_SENTINEL = np.iinfo(np.int64).max  # greater than every key, so that a search always ends before it


class NgramCounts(NamedTuple):
    """The n-grams of one order in many captions; E counts the distinct n-grams of each caption."""

    keys: Integers  # (K,) the distinct n-grams, ascending; the index of a key is the n-gram's id
    caption_ids: Integers  # (E,) the caption, ascending
    ngram_ids: Integers  # (E,) an n-gram of that caption
    frequencies: Integers  # (E,) how often the caption contains it


def count_ngrams_by_order(
    captions: Sequence[Sequence[str]], vocabulary: dict[str, int]
) -> list[NgramCounts]:
    """Return the counts of each order in all captions; words that `vocabulary` lacks are added.

    The key of an n-gram packs the id of its first n - 1 words and the id of its last word.
    """
    lengths = sequence_lengths(captions)
    word_ids = (
        vocabulary.setdefault(word, len(vocabulary)) for word in chain.from_iterable(captions)
    )
    words = np.fromiter(word_ids, np.int64, lengths.sum())  # (W,) all captions in a row
    caption_ids = np.repeat(np.arange(len(captions)), lengths)  # (W,)
    prefix_ids = np.zeros(len(words) + 1, np.int64)  # (n - 1)-gram that starts at each position
    counts = []
    for n in range(MAX_ORDER):
        keys = pack(prefix_ids[:-1], words[n:])  # (W - n,) one for each start position
        start_ids = caption_ids[: len(keys)]
        inside = start_ids == caption_ids[n:]  # the n-gram ends in the caption in which it starts
        distinct, ngram_ids = np.unique(keys[inside], return_inverse=True)
        entries, frequencies = np.unique(pack(start_ids[inside], ngram_ids), return_counts=True)
        counts.append(NgramCounts(distinct, *unpack(entries), frequencies))
        prefix_ids = np.zeros_like(keys)
        prefix_ids[inside] = ngram_ids
    return counts


def sequence_lengths(sequences: Sequence[Sequence[object]]) -> Integers:
    """Return the length of each of N sequences: (N,)."""
    return np.fromiter(map(len, sequences), np.int64, len(sequences))


def pack(high: Integers, low: Integers) -> Integers:
    """Return one integer for each pair of integers below 2³¹; the result sorts as the pairs do."""
    return high << 32 | low


def unpack(packed: Integers) -> tuple[Integers, Integers]:
    """Return the two integers that each packed integer holds."""
    return packed >> 32, packed & 0xFFFFFFFF


class Matches(NamedTuple):
    """The M matches of one order: an n-gram that a caption shares with a reference of its image."""

    caption_ids: Integers  # (M,)
    reference_ids: Integers  # (M,) index among all references
    frequencies: Integers  # (M,) how often the caption contains the n-gram
    reference_frequencies: Integers  # (M,) how often the reference contains it
    weights: Floats  # (M,) squared idf, divided by the norms of both tf-idf vectors


class ReferenceNgrams:
    """The n-grams of the references with their idf, computed once for all candidates."""

    def __init__(self, references: Sequence[Sequence[Sequence[str]]]) -> None:
        """Count tokenized references: images x references x words, at least one for each image."""
        captions = [words for image in references for words in image]
        self.sizes = sequence_lengths(references)  # (I,) references of each image
        self.lengths = count_bigrams(captions)  # (R,) of each reference
        self._vocabulary: dict[str, int] = {}
        self._orders = [
            _InvertedIndex(counts, self.sizes)
            for counts in count_ngrams_by_order(captions, self._vocabulary)
        ]

    def match(self, images: Integers, captions: Sequence[Sequence[str]]) -> Iterator[Matches]:
        """Yield, order by order, the matches of N tokenized captions with images `images` (N,)."""
        # The captions and the references number their n-grams differently. `ids` maps the id of an
        # n-gram in the captions to its id in the references.
        ids = np.zeros(1, np.int64)
        counts_by_order = count_ngrams_by_order(captions, dict(self._vocabulary))
        for index, counts in zip(self._orders, counts_by_order, strict=True):
            prefix_ids, words = unpack(counts.keys)
            ids = index.find(pack(ids[prefix_ids], words))  # (K,)
            yield index.match(images, counts._replace(ngram_ids=ids[counts.ngram_ids]))


class _InvertedIndex:
    """An inverted index of the n-grams of one order.

    It lists, for each pair of an image and an n-gram, the references of the image that contain the
    n-gram. The id K stands for all n-grams in no reference; their document frequency counts as 1.
    """

    def __init__(self, counts: NgramCounts, sizes: Integers) -> None:
        self._keys = np.append(counts.keys, _SENTINEL)  # (K + 1,)
        image_ids = np.repeat(np.arange(len(sizes)), sizes)[counts.caption_ids]  # (E,)
        entry_keys = pack(image_ids, counts.ngram_ids)
        by_image = np.argsort(entry_keys, kind="stable")
        self._references, self._frequencies = (
            values[by_image] for values in (counts.caption_ids, counts.frequencies)
        )  # (E,) each
        # Each pair of an image and an n-gram has a slice of these two arrays.
        pairs, slice_sizes = np.unique(entry_keys, return_counts=True)  # (Q,)
        self._pairs, self._slice_sizes = np.append(pairs, _SENTINEL), np.append(slice_sizes, 0)
        self._slice_starts = self._slice_sizes.cumsum() - self._slice_sizes
        document_frequencies = np.bincount(unpack(pairs)[1], minlength=len(counts.keys))
        # The second factor of equation 1: log(images / images with the n-gram), (K + 1,).
        self._idf = np.log(max(1, len(sizes))) - np.log(np.append(document_frequencies, 1))
        self._norms = self._tf_idf_norms(counts, sizes.sum())  # (R,)

    def find(self, keys: Integers) -> Integers:
        """Return the id of each n-gram, or K if no reference contains it."""
        ids = np.searchsorted(self._keys, keys)
        return np.where(self._keys[ids] == keys, ids, len(self._keys) - 1)

    def match(self, images: Integers, counts: NgramCounts) -> Matches:
        """Return the matches of N captions with the references of their images (N,)."""
        pairs = pack(images[counts.caption_ids], counts.ngram_ids)  # (E,)
        slots = np.searchsorted(self._pairs, pairs)
        sizes = np.where(self._pairs[slots] == pairs, self._slice_sizes[slots], 0)  # (E,)
        # Entry e of the captions has sizes[e] matches, which lie in a row in the index.
        entries = np.repeat(np.arange(len(pairs)), sizes)  # (M,) into the captions' entries
        offsets = self._slice_starts[slots] - sizes.cumsum() + sizes
        positions = np.arange(len(entries)) + np.repeat(offsets, sizes)  # (M,) into the index
        caption_ids, reference_ids = counts.caption_ids[entries], self._references[positions]
        norms = self._tf_idf_norms(counts, len(images))[caption_ids] * self._norms[reference_ids]
        return Matches(
            caption_ids,
            reference_ids,
            counts.frequencies[entries],
            self._frequencies[positions],
            self._idf[counts.ngram_ids[entries]] ** 2 / norms,
        )

    def _tf_idf_norms(self, counts: NgramCounts, num_captions: int) -> Floats:
        """Return the Euclidean norm of each caption's tf-idf vector; 1 if the vector is zero."""
        # Equation 1, not divided by the length of the caption: the division cancels in equation 2.
        weights = counts.frequencies * self._idf[counts.ngram_ids]  # (E,)
        squares = np.bincount(counts.caption_ids, weights**2, minlength=num_captions)
        return np.sqrt(np.where(squares > 0, squares, 1))


class Cider:
    """CIDEr against one set of references (Vedantam et al. 2015, equations 1 to 3)."""

    def __init__(self, references: ReferenceNgrams) -> None:
        self.references = references

    def score(self, candidates: Sequence[Sequence[str]]) -> tuple[float, list[float]]:
        """Return the mean score (0 to 10), and that of each image.

        `candidates` has one tokenized caption for each image, in the order of the references.

        Raises:
            ValueError: the numbers of candidates and of images differ.
        """
        images = len(self.references.sizes)
        if len(candidates) != images:
            raise ValueError(f"there are {len(candidates)} candidates for {images} images")
        scores = self.score_each(range(images), candidates).tolist()
        return sum(scores) / max(1, images), scores

    def score_each(self, images: Sequence[int], captions: Sequence[Sequence[str]]) -> Floats:
        """Return the score (N,) of N tokenized captions; `images` are the indices of their images.

        Several captions may belong to one image.
        """
        image_ids = np.asarray(images, np.int64)
        lengths = count_bigrams(captions)
        total = np.zeros(len(captions))
        for matches in self.references.match(image_ids, captions):
            reference_lengths = self.references.lengths[matches.reference_ids]
            length_differences = lengths[matches.caption_ids] - reference_lengths  # (M,)
            similarity = self._product(matches, length_differences) * matches.weights
            total += np.bincount(matches.caption_ids, similarity, minlength=len(captions))
        # Equations 2 and 3: the mean over the references of the image, and over the orders.
        return 10 / MAX_ORDER * total / self.references.sizes[image_ids]

    def _product(self, matches: Matches, length_differences: Integers) -> Floats | Integers:
        """Return the product of the counts (M,): the numerator of equation 2 without the idf."""
        return matches.frequencies * matches.reference_frequencies


class CiderD(Cider):
    """CIDEr-D: the score gains nothing from repeated words, and falls if the lengths differ."""

    def _product(self, matches: Matches, length_differences: Integers) -> Floats:
        penalty = np.exp(-(length_differences**2) / (2 * SIGMA**2))
        clipped = np.minimum(matches.frequencies, matches.reference_frequencies)
        return penalty * clipped * matches.reference_frequencies


def count_bigrams(captions: Sequence[Sequence[str]]) -> Integers:
    """Return the bigrams of each caption (N,), which COCO's tool uses as its length."""
    return np.maximum(sequence_lengths(captions) - 1, 0)
