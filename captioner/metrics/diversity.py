"""What quality does not show: whether captions vary, repeat themselves, or are learnt by heart. Knows no references."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import chain, pairwise


@dataclass(frozen=True)
class Diversity:
    """Figures of one set of captions. All but the mean length and the shares of single captions depend on its size."""

    mean_length: float  # words of a caption
    vocabulary: int  # different words of all captions
    distinct: float  # share of different captions among all, 0 to 1
    repetitive: float  # share of captions that say a word twice in a row, or a pair of words twice
    unseen: float | None  # share of captions that are not among the training captions; None: those are not known

    @property
    def shown(self) -> dict[str, str]:
        """The figures as people read them, by what they say."""
        shown = {
            "words of a caption": f"{self.mean_length:.1f}",
            "different words": f"{self.vocabulary:,}",
            "distinct captions": f"{self.distinct:.1%}",
            "captions that repeat words": f"{self.repetitive:.1%}",
        }
        return shown if self.unseen is None else shown | {"not seen in training": f"{self.unseen:.1%}"}


def measure_diversity(captions: Sequence[Sequence[str]], seen: Collection[tuple[str, ...]] | None = None) -> Diversity:
    """Measure one or more tokenised captions; `seen` are the tokenised captions of training."""
    said = [tuple(words) for words in captions]
    return Diversity(
        mean_length=sum(map(len, said)) / len(said),
        vocabulary=len(set(chain.from_iterable(said))),
        distinct=len(set(said)) / len(said),
        repetitive=sum(map(_repeats, said)) / len(said),
        unseen=None if seen is None else sum(words not in seen for words in said) / len(said),
    )


def _repeats(words: Sequence[str]) -> bool:
    pairs = list(pairwise(words))
    return len(set(pairs)) < len(pairs) or any(one == other for one, other in pairs)
