"""Counting the runs of one to four words that BLEU and CIDEr-D both compare."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import repeat

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
