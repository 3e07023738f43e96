"""What captions and images of a split are like, in counts. Reads no file."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from captioner.checkup.leakage import Inspection
from captioner.console import track
from captioner.data.datasets import Example
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
    sizes: Counter[
        tuple[int, int]
    ]  # width and height in pixels, as stored → images that can be read
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
    examples: Sequence[Example],
    inspections: Mapping[Path, Inspection],
    problems: Problems,
    *,
    max_length: int,
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
    headers = [
        inspections[example.path].header for example in examples if example.path in inspections
    ]
    return SplitStatistics(
        images=len(examples),
        captions_per_image=Counter(len(example.captions) for example in examples),
        words_per_caption=lengths,
        words=words,
        sizes=Counter((header.width, header.height) for header in headers),
        modes=Counter(header.mode for header in headers),
    )


def coverage(
    splits: Mapping[str, SplitStatistics], min_counts: Sequence[int] = MIN_COUNTS
) -> list[Coverage]:
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


LOST = re.compile(
    "[\ufffd\ud800-\udc7f\udd00-\udfff]"
)  # what stands for a letter that was lost; half of one

EXCERPT = 60  # characters of a caption that are quoted


def note_caption(
    problems: Problems, example: Example, caption: str, words: Sequence[str], *, max_length: int
) -> None:
    """Note a caption of more than `max_length` words or none, and one whose letters were spoilt by a wrong encoding."""
    named = f"{example.image_id!r}: {caption if len(caption) <= EXCERPT else caption[:EXCERPT] + '...'!r}"
    if len(words) > max_length:
        kind = f"captions of more than {max_length} words, cut in training"
        problems.tolerate(kind, [f"{named} ({len(words)} words)"])
    if not words:
        problems.tolerate("captions without a word, kept as they are", [named])
    if not caption.isascii() and is_spoilt(caption):
        problems.tolerate(
            "captions whose letters a wrong encoding has spoilt, kept as they are", [named]
        )


def is_spoilt(caption: str) -> bool:
    """Tell whether letters were lost, or UTF-8 was once read as Latin-1 or Windows-1252: "cafÃ©" was "café"."""
    if LOST.search(caption):
        return True
    for wrong in ("latin-1", "cp1252"):
        try:
            caption.encode(wrong).decode("utf-8")
        except UnicodeError:
            continue
        return True
    return False
