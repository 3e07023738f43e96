"""BLEU-4 of groups of images whose references have about the same length."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from captioner.metrics.bleu import Bleu, bleu


class LengthBin(NamedTuple):
    """Images whose references have about the same length."""

    shortest: float  # the smallest mean length of an image's references, in words
    longest: float  # the largest
    images: int
    bleu_4: float  # of these images, 0 to 1


def bleu_by_length(
    references: Sequence[Sequence[Sequence[str]]],
    candidates: Sequence[Sequence[str]],
    *,
    bins: int = 5,
) -> list[LengthBin]:
    """Return the BLEU-4 of groups of images, grouped by the mean length of their references.

    The groups have about the same size. Images with the same mean length are in one group, so there
    may be fewer than `bins` groups.

    Args:
        references: tokenized: images x references x words.
        candidates: one tokenized caption for each image, in the same order.
        bins: the number of groups.

    Returns:
        The groups in ascending order of length.
    """
    lengths = np.array([np.mean([len(words) for words in captions]) for captions in references])
    counts = np.array(Bleu(references).statistics(candidates))  # (I, 10)
    edges = np.quantile(lengths, np.arange(1, bins) / bins)  # (bins - 1,)
    bin_ids = np.searchsorted(edges, lengths)  # (I,)
    return [
        LengthBin(
            shortest=float(lengths[members].min()),
            longest=float(lengths[members].max()),
            images=int(members.sum()),
            bleu_4=float(bleu(counts[members].sum(axis=0))[3]),
        )
        for members in (bin_ids == bin_id for bin_id in np.unique(bin_ids))
    ]
