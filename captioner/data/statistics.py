"""What captions and images of a split are like, in counts. Reads no file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from captioner.console import track
from captioner.data.caption_checks import note_caption
from captioner.data.datasets import Example
from captioner.data.inspection import Inspection
from captioner.data.problems import Problems
from captioner.text.tokenizer import tokenize

MIN_COUNTS = (1, 2, 3, 5, 10, 20)


@dataclass(frozen=True)
class SplitStatistics:
    """Counts over one split."""

    images: int
    captions_per_image: Counter[int]  # captions of an image → images
    words_per_caption: Counter[int]  # words of a caption → captions
    words: Counter[str]
    sizes: Counter[tuple[int, int]]  # width and height in pixels, as stored → images that can be read
    modes: Counter[str]  # Pillow's → images that can be read

    @property
    def captions(self) -> int:
        """How many there are."""
        return self.words_per_caption.total()


class Coverage(NamedTuple):
    """What a vocabulary of the first split's words would hold."""

    min_count: int  # of a word in the first split, or it becomes <unk>
    words: int
    shares: dict[str, float]  # split → share of its running words that the vocabulary knows


def describe(
    examples: Sequence[Example], inspections: Mapping[Path, Inspection], problems: Problems, *, max_length: int
) -> SplitStatistics:
    """Count the captions, their words, and the images that could be read; note what is wrong with a caption."""
    words: Counter[str] = Counter()
    lengths: Counter[int] = Counter()
    for example in track(examples, total=len(examples), doing="counting words", unit="images"):
        for caption in example.captions:
            said = tokenize(caption)
            words.update(said)
            lengths[len(said)] += 1
            note_caption(problems, example, caption, said, max_length=max_length)
    headers = [inspections[example.path].header for example in examples if example.path in inspections]
    return SplitStatistics(
        images=len(examples),
        captions_per_image=Counter(len(example.captions) for example in examples),
        words_per_caption=lengths,
        words=words,
        sizes=Counter((header.width, header.height) for header in headers),
        modes=Counter(header.mode for header in headers),
    )


def coverage(splits: Mapping[str, SplitStatistics], min_counts: Sequence[int] = MIN_COUNTS) -> list[Coverage]:
    """Say what a vocabulary of the first split would hold at each minimum count, and what it covers of each split."""
    counts = next(iter(splits.values())).words
    rows = []
    for min_count in min_counts:
        known = {word for word, count in counts.items() if count >= min_count}
        shares = {name: _share(split.words, known) for name, split in splits.items()}
        rows.append(Coverage(min_count, len(known), shares))
    return rows


def _share(words: Counter[str], known: set[str]) -> float:
    return sum(count for word, count in words.items() if word in known) / max(1, words.total())
