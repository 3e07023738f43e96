"""Captions and translations: their words, log-probabilities and heat maps. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

ImageId = int | str
"""COCO numbers its images, other data sets name them. 42 and "42" are two different images."""

Explanation = Literal["occlusion", "attention"]
"""How a `HeatMap` was computed.

occlusion: the decrease of the word's log-probability (natural logarithm) if that part of the image
    is hidden; negative where it increases.
attention: the attention weight of that part at the word's step; the weights of a word sum to 1.
"""

HeatMap = tuple[tuple[float, ...], ...]
"""How much a word depends on each part of the image, by row and column of a grid over it."""


class Hypothesis(NamedTuple):
    """A caption that a search has generated."""

    token_ids: list[int]  # without <bos> and <eos>
    log_probs: list[float]  # natural logarithms, of each token and of <eos>

    @property
    def log_prob(self) -> float:
        """The log-probability of the whole caption."""
        return sum(self.log_probs)


@dataclass(frozen=True)
class Word:
    """A word of a caption with its log-probability, given the image and the words before it."""

    text: str
    log_prob: float  # natural logarithm
    # The probability that a person would use the word for this image; None: not calibrated.
    confidence: float | None = None
    heat: HeatMap | None = None


@dataclass(frozen=True)
class Caption:
    """A generated caption, or a given one that a model has scored."""

    text: str
    words: tuple[Word, ...]
    log_prob: float  # natural logarithm of the caption's probability, <eos> included
    # The mean of the words' confidences; None: not calibrated, or no words.
    confidence: float | None = None
    # The confidence is not below the threshold of `captioner calibrate`; None: there is none.
    sure: bool | None = None
    abstained: bool = False  # the confidence is below `min_confidence`: do not show the caption
    others: tuple[Caption, ...] = ()  # further captions: the best first, or in the order drawn
    explanation: Explanation | None = None  # how the words' heat maps were computed

    @property
    def shown(self) -> list[str]:
        """Return the texts of this caption and of the others, without those not to show."""
        return [each.text for each in (self, *self.others) if not each.abstained]


@dataclass(frozen=True)
class Translation:
    """A text that a model has generated from a source text."""

    text: str
    words: tuple[Word, ...]  # tokens of any kind: words, characters or subwords
    log_prob: float  # natural logarithm of the text's probability, <eos> included
    source: tuple[str, ...] = ()  # the tokens of the source text
    # The attention weight of each source token at each word's step; the weights of a word sum to 1.
    alignment: tuple[tuple[float, ...], ...] | None = None
    others: tuple[Translation, ...] = ()  # further texts: the best first, or in the order drawn
