"""The reward of self-critical training (Rennie et al. 2017): a weighted sum of metrics.

The n-gram document frequencies of CIDEr-D come from all references of the split; they are counted
once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import assert_never

import numpy as np

from captioner.config.schema import RewardName
from captioner.metrics.bleu import Bleu, bleu
from captioner.metrics.cider import CiderD, Floats, ReferenceNgrams
from captioner.metrics.meteor import Meteor
from captioner.metrics.rouge import RougeL
from captioner.text.tokenizer import EOS, SPECIALS

Captions = Sequence[Sequence[str]]
Metric = Callable[[Sequence[int], Captions], Floats]
"""(indices of the images of N captions, N tokenized captions) -> (N,) scores."""

# Without an end mark, a caption loses little if it stops in mid-sentence: "a dog running in a" has
# only n-grams that captions of running dogs have. Self-critical training exploits that, and
# generates such captions. With the mark, "in a <eos>" is an n-gram that no reference has.
_END_MARK = SPECIALS[EOS]


class Reward:
    """Scores captions of the images of one split by a weighted sum of metrics."""

    def __init__(self, references: Sequence[Captions], weights: Mapping[RewardName, float]) -> None:
        """Prepare the metrics whose weight is positive.

        Args:
            references: tokenized: images x references x words, at least one for each image.
            weights: the weight of each metric, by COCO's names. "CIDEr" is CIDEr-D (0 to 10) of
                captions with an end mark; "Bleu_4" is the BLEU-4 (0 to 1) of a single caption.
        """
        self._metrics = [
            (weight, _metric(name, references)) for name, weight in weights.items() if weight > 0
        ]

    def __call__(self, images: Sequence[int], captions: Captions) -> Floats:
        """Return the reward (N,) of N tokenized captions; `images` are the indices of their images.

        Several captions may belong to one image.
        """
        reward = np.zeros(len(captions))
        for weight, metric in self._metrics:
            reward += weight * metric(images, captions)
        return reward


def _metric(name: RewardName, references: Sequence[Captions]) -> Metric:
    match name:
        case "CIDEr":
            ngrams = ReferenceNgrams([_with_end_mark(captions) for captions in references])
            cider_d = CiderD(ngrams)
            return lambda images, captions: cider_d.score_each(images, _with_end_mark(captions))
        case "Bleu_4":
            return _per_image(
                references,
                lambda refs, texts: [bleu(row)[3] for row in Bleu(refs).statistics(texts)],
            )
        case "ROUGE_L":
            return _per_image(references, lambda refs, texts: RougeL(refs).score(texts)[1])
        case "METEOR":
            # Without the paraphrase table, which is too slow to search for each batch.
            return _per_image(
                references,
                lambda refs, texts: Meteor(refs, paraphrases=False).score(texts)[1],
            )
        case other:
            assert_never(other)


def _with_end_mark(captions: Captions) -> Captions:
    return [[*words, _END_MARK] for words in captions]


def _per_image(
    references: Sequence[Captions],
    score: Callable[[Sequence[Captions], Captions], Sequence[float]],
) -> Metric:
    """Return a metric that needs only the references of each caption's own image."""
    return lambda images, captions: np.array(
        score([references[image] for image in images], captions)
    )
