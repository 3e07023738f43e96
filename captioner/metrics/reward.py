"""How good each caption is that a model draws while it learns (Rennie et al. 2017): metrics, weighed and added.

Words in, numbers out. How rare an n-gram is comes from the references of the whole split, which are counted once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import assert_never

import numpy as np
from numpy.typing import NDArray

from captioner.config.schema import RewardName
from captioner.metrics.bleu import Bleu, bleu
from captioner.metrics.cider import CiderD, ReferenceNgrams
from captioner.metrics.meteor import Meteor
from captioner.metrics.rouge import RougeL
from captioner.text.vocabulary import EOS, SPECIALS

Floats = NDArray[np.float64]
Captions = Sequence[Sequence[str]]
Score = Callable[[Sequence[int], Captions], Floats]
"""(numbers of N images, a tokenised caption of each) → (N,) scores."""

# Without an end mark, a caption loses little by stopping in mid-sentence: "a dog running in a" has the n-grams that
# captions of running dogs have, and none that is wrong. Self-critical training finds that out, and learns to say such
# things. With it, "in a <eos>" is an n-gram like others, and in no reference.
_END = SPECIALS[EOS]


class Reward:
    """Scores captions of the images of one split by a weighted sum of metrics."""

    def __init__(self, references: Sequence[Captions], weights: Mapping[RewardName, float]) -> None:
        """Take the tokenised references of each image (images x references x words), and the weight of each metric.

        Metrics have COCO's names: "CIDEr" is CIDEr-D (0 to 10) of captions with an end mark; the others are 0 to 1,
        "Bleu_4" that of a sentence. Only those with a positive weight are computed.
        """
        self._parts = [
            (weight, _score(name, references)) for name, weight in weights.items() if weight > 0
        ]

    def __call__(self, images: Sequence[int], captions: Captions) -> Floats:
        """Give the reward (N,) of each of N tokenised captions of the images with these numbers, repeats allowed."""
        reward = np.zeros(len(captions))
        for weight, score in self._parts:
            reward += weight * score(images, captions)
        return reward


def _score(name: RewardName, references: Sequence[Captions]) -> Score:
    match name:
        case "CIDEr":
            cider_d = CiderD(ReferenceNgrams([_ended(captions) for captions in references]))
            return lambda images, captions: cider_d.score_each(images, _ended(captions))
        case "Bleu_4":
            return _of_chosen(references, _bleu_4)
        case "ROUGE_L":
            return _of_chosen(
                references, lambda chosen, captions: RougeL(chosen).score(captions)[1]
            )
        case "METEOR":
            return _of_chosen(
                references, lambda chosen, captions: Meteor(chosen).score(captions)[1]
            )
        case other:
            assert_never(other)


def _ended(captions: Captions) -> Captions:
    return [[*words, _END] for words in captions]


def _of_chosen(
    references: Sequence[Captions],
    metric: Callable[[Sequence[Captions], Captions], Sequence[float]],
) -> Score:
    """Make a score of a metric to which only the references of a caption's own image matter."""
    return lambda images, captions: np.array(
        metric([references[image] for image in images], captions)
    )


def _bleu_4(references: Sequence[Captions], captions: Captions) -> list[float]:
    return [bleu(counts)[3] for counts in Bleu(references).statistics(captions)]
