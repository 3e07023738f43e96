"""The diversity of captions, which metrics of quality do not show."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import chain, pairwise


@dataclass(frozen=True)
class Diversity:
    """The diversity of one set of captions. `vocabulary` and `distinct` depend on its size."""

    mean_length: float  # words per caption
    vocabulary: int  # distinct words in all captions
    distinct: float  # distinct captions divided by all captions, 0 to 1
    repetitive: float  # share of captions with a word twice in a row, or a bigram twice
    unseen: float | None  # share of captions not in the training data; None if that is unknown

    @property
    def formatted(self) -> dict[str, str]:
        """The figures as text for tables, with their labels."""
        rows = {
            "words per caption": f"{self.mean_length:.1f}",
            "distinct words": f"{self.vocabulary:,}",
            "distinct captions": f"{self.distinct:.1%}",
            "captions that repeat words": f"{self.repetitive:.1%}",
        }
        return (
            rows if self.unseen is None else rows | {"not seen in training": f"{self.unseen:.1%}"}
        )


def measure_diversity(
    captions: Sequence[Sequence[str]], training: Collection[tuple[str, ...]] | None = None
) -> Diversity:
    """Return the diversity of one or more tokenized captions.

    Args:
        captions: captions x words, at least one caption.
        training: the tokenized captions of the training data, for `unseen`.
    """
    tokenized = [tuple(words) for words in captions]
    return Diversity(
        mean_length=sum(map(len, tokenized)) / len(tokenized),
        vocabulary=len(set(chain.from_iterable(tokenized))),
        distinct=len(set(tokenized)) / len(tokenized),
        repetitive=sum(map(_is_repetitive, tokenized)) / len(tokenized),
        unseen=None
        if training is None
        else sum(t not in training for t in tokenized) / len(tokenized),
    )


def _is_repetitive(words: Sequence[str]) -> bool:
    bigrams = list(pairwise(words))
    return len(set(bigrams)) < len(bigrams) or any(first == second for first, second in bigrams)
