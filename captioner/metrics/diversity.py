"""What quality does not show: whether captions vary, repeat themselves, or are learnt by heart. Knows no references."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import chain, pairwise
from typing import NamedTuple

import numpy as np

from captioner.metrics.bleu import Bleu, bleu


@dataclass(frozen=True)
class Diversity:
    """Figures of one set of captions. All but the mean length and the shares of single captions depend on its size."""

    mean_length: float  # words of a caption
    vocabulary: int  # different words of all captions
    distinct: float  # share of different captions among all, 0 to 1
    repetitive: float  # share of captions that say a word twice in a row, or a pair of words twice
    unseen: (
        float | None
    )  # share of captions that are not among the training captions; None: those are not known

    @property
    def shown(self) -> dict[str, str]:
        """The figures as people read them, by what they say."""
        shown = {
            "words of a caption": f"{self.mean_length:.1f}",
            "different words": f"{self.vocabulary:,}",
            "distinct captions": f"{self.distinct:.1%}",
            "captions that repeat words": f"{self.repetitive:.1%}",
        }
        return (
            shown if self.unseen is None else shown | {"not seen in training": f"{self.unseen:.1%}"}
        )


def measure_diversity(
    captions: Sequence[Sequence[str]], seen: Collection[tuple[str, ...]] | None = None
) -> Diversity:
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


class LengthBin(NamedTuple):
    """Images of which people said about equally much."""

    shortest: float  # the least mean length of an image's references, in words
    longest: float
    images: int
    bleu_4: float  # a fraction


def bleu_by_length(
    references: Sequence[Sequence[Sequence[str]]],
    candidates: Sequence[Sequence[str]],
    *,
    bins: int = 5,
) -> list[LengthBin]:
    """Group images by the mean length of their references, and give the BLEU-4 of each group, the shortest first.

    References are images x references x words, candidates one tokenised caption per image in their order. Groups are
    about equally large; images of one length stay together, so there may be fewer than `bins`.
    """
    lengths = np.array([np.mean([len(words) for words in captions]) for captions in references])
    counts = np.array(Bleu(references).statistics(candidates))  # (images, 10)
    edges = np.quantile(lengths, np.arange(1, bins) / bins)
    bin_of = np.searchsorted(edges, lengths)
    return [
        LengthBin(
            shortest=float(lengths[members].min()),
            longest=float(lengths[members].max()),
            images=int(members.sum()),
            bleu_4=float(bleu(counts[members].sum(axis=0))[3]),
        )
        for members in (bin_of == number for number in np.unique(bin_of))
    ]
