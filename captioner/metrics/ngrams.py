"""Counting the runs of one to four words that BLEU and CIDEr compare: a caption at a time, or very many as integers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, repeat
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Integers = NDArray[np.int64]

ORDERS = 4


def count_ngrams(words: Sequence[str]) -> Counter[str]:
    """Count every n-gram of the caption, n from 1 to `ORDERS`, written with spaces between its words.

    Strings instead of tuples because the garbage collector need not visit them: a million n-grams take half the time.
    """
    one, two, three = words[1:], words[2:], words[3:]
    pairs = map(" ".join, zip(words, one, strict=False))
    triples = map(" ".join, zip(words, one, two, strict=False))
    fours = map(" ".join, zip(words, one, two, three, strict=False))
    return Counter([*words, *pairs, *triples, *fours])


def orders(ngrams: Iterable[str]) -> Iterator[int]:
    """Give each n-gram's place in a list of the `ORDERS`: 0 for a word, 1 for a pair, and so on."""
    return map(str.count, ngrams, repeat(" "))


class NgramCounts(NamedTuple):
    """The n-grams of one order in many captions, as numbers."""

    kinds: Integers  # (K,) the different n-grams, sorted: see `pair`; an n-gram's number is its place here
    caption: Integers  # (E,) which caption, ascending
    ngram: Integers  # (E,) the number of an n-gram in it
    times: Integers  # (E,) how often the caption has it


def count_all(captions: Sequence[Sequence[str]], vocabulary: dict[str, int]) -> list[NgramCounts]:
    """Count the n-grams of each order in all captions at once; words that `vocabulary` lacks are added to it.

    An n-gram is a pair: the number of its first n - 1 words, and that of its last word in the vocabulary.
    """
    lengths = lengths_of(captions)
    numbers = (
        vocabulary.setdefault(word, len(vocabulary)) for word in chain.from_iterable(captions)
    )
    words = np.fromiter(numbers, np.int64, lengths.sum())
    caption = np.repeat(np.arange(len(captions)), lengths)
    before = np.zeros(
        len(words) + 1, np.int64
    )  # the number of the n - 1 words that start at each place
    counts = []
    for n in range(ORDERS):
        pairs = pair(before[:-1], words[n:])
        starts = caption[: len(pairs)]
        inside = starts == caption[n:]  # the n-gram ends in the caption it starts in
        kinds, ngram = np.unique(pairs[inside], return_inverse=True)
        found, times = np.unique(pair(starts[inside], ngram), return_counts=True)
        counts.append(NgramCounts(kinds, *split(found), times))
        before = np.zeros_like(pairs)
        before[inside] = ngram
    return counts


def lengths_of(things: Sequence[Sequence[object]]) -> Integers:
    """Give the length of each."""
    return np.fromiter(map(len, things), np.int64, len(things))


def pair(high: Integers, low: Integers) -> Integers:
    """Write two numbers below 2³¹ as one, which sorts by the first and then by the second."""
    return high << 32 | low


def split(pairs: Integers) -> tuple[Integers, Integers]:
    """Give the two numbers of each pair."""
    return pairs >> 32, pairs & 0xFFFFFFFF
