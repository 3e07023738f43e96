"""Counting the runs of one to four words that BLEU and CIDEr-D both compare."""

from collections import Counter
from collections.abc import Sequence
from itertools import chain

ORDERS = 4

NGram = tuple[str, ...]


def count_ngrams(words: Sequence[str]) -> Counter[NGram]:
    """Count every n-gram of the caption, n from 1 to `ORDERS`."""
    return Counter(chain.from_iterable(zip(*(words[i:] for i in range(n)), strict=False) for n in range(1, ORDERS + 1)))
