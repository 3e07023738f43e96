"""What comes out: captions with their words, and how sure the model is of them. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

ImageId = int | str
"""COCO numbers its images; other data sets name them. 42 and "42" are two different images."""

Explanation = Literal["occlusion", "attention"]
"""What a figure of `Heat` is. Occlusion: the log-probability that the word loses with that part of the image hidden;
below 0 it gains. Attention: the part's share of the look that the model took to say the word; all of them sum to 1."""

Heat = tuple[tuple[float, ...], ...]
"""Rows x columns of the image: how much a word hangs on each part."""


@dataclass(frozen=True)
class Word:
    """A word of a caption, and how sure the model was of it among all words it could have said there."""

    text: str
    log_prob: float  # natural logarithm
    confidence: float | None = (
        None  # that a person would say it of this image, 0 to 1; none: never calibrated
    )
    heat: Heat | None = None


@dataclass(frozen=True)
class Caption:
    """What the model says of an image."""

    text: str
    words: tuple[Word, ...]
    log_prob: float  # natural logarithm of the whole caption's probability, its end included
    confidence: float | None = None  # mean of its words'; none: never calibrated, or no words
    abstained: bool = False  # its confidence is below what was asked for: better not shown
    others: tuple[
        Caption, ...
    ] = ()  # further ones where asked for: the best first, or in the order drawn
    explanation: Explanation | None = None  # what its words' heat is; none: they have none
