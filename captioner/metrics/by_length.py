"""Whether long captions are harder: BLEU-4 of images grouped by how much people said of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from captioner.metrics.bleu import Bleu, bleu


class LengthBin(NamedTuple):
    """Images of which people said about equally much."""

    shortest: float  # the least mean length of an image's references, in words
    longest: float
    images: int
    bleu_4: float  # a fraction


def bleu_by_length(
    references: Sequence[Sequence[Sequence[str]]], candidates: Sequence[Sequence[str]], *, bins: int = 5
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
