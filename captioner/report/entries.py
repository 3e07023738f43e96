"""What a page shows: images with their captions, and the scores of the whole set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from captioner.captions import Caption


@dataclass(frozen=True)
class Entry:
    """One image with its captions. Of the path, only what `name` repeats of it is found in the page."""

    name: str
    path: Path  # where the image is, for the thumbnail
    caption: Caption
    references: Sequence[str] = ()
    scores: Mapping[str, float] = field(default_factory=dict)  # of this image, as metrics give them: shown times 100
    cropped: bool = False  # show its middle alone, as a model with the transform `crop` sees it


@dataclass(frozen=True)
class Figure:
    """A score of the whole set, as shown (times 100), with the ends of its 95 % interval where they are known."""

    name: str
    value: float
    low: float | None = None
    high: float | None = None
