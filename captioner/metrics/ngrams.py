"""N-gram counts for BLEU and CIDEr: of one caption, or of many captions as integer arrays."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import chain
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Integers = NDArray[np.int64]

MAX_ORDER = 4
"""The longest n-grams that BLEU and CIDEr compare."""


def count_ngrams(words: Sequence[str]) -> Counter[str]:
    """Return how often the caption contains each n-gram, n = 1 to `MAX_ORDER`.

    The words of an n-gram are joined by spaces. Strings are faster than tuples, because the garbage
    collector does not traverse them: counting a million n-grams takes half the time.
    """
    second, third, fourth = words[1:], words[2:], words[3:]
    bigrams = map(" ".join, zip(words, second, strict=False))
    trigrams = map(" ".join, zip(words, second, third, strict=False))
    fourgrams = map(" ".join, zip(words, second, third, fourth, strict=False))
    return Counter([*words, *bigrams, *trigrams, *fourgrams])


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
