"""Counts over the splits of a data set, and the problems of single captions."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from captioner.checkup.leakage import ImageInfo
from captioner.data.datasets import Example, StoredImage
from captioner.data.parallel import Pair
from captioner.data.plain_text import TextExample
from captioner.data.problems import Problems
from captioner.progress import track

MIN_COUNTS = (1, 2, 3, 5, 10, 20)
LOST_CHARACTERS = re.compile("[\ufffd\ud800-\udc7f\udd00-\udfff]")  # or halves of one
MAX_EXCERPT = 60  # characters of a caption that are quoted


class Split(NamedTuple):
    """A split of a data set, and the problems found while loading it."""

    name: str
    examples: Sequence[Example]
    missing: Collection[Path | StoredImage]  # images that do not exist; already in `problems`
    problems: Problems  # of its annotation file; splits of one file share them
    text: Sequence[TextExample] = ()  # captions without images
    pairs: Sequence[Pair] | None = None  # texts with their targets, instead of examples and text
    group: str = ""  # "train" or "dev" of a config; splits of one group are not compared
    skips_bad_images: bool = False  # training leaves out those that cannot be read


@dataclass(frozen=True)
class SplitStatistics:
    """Counts over one split. Image files that cannot be read do not count.

    A pair counts as an image does, and its targets as captions do.
    """

    images: int  # with a caption
    captions_per_image: Counter[int]  # number of captions → images
    words_per_caption: Counter[int]  # number of words → captions
    words: Counter[str]
    sizes: Counter[tuple[int, int]]  # (width, height) in pixels, as stored → image files
    modes: Counter[str]  # Pillow's mode → image files
    pairs: int | None = None  # none: images or captions alone
    words_per_source: Counter[int] = field(default_factory=Counter)  # words → sources
    source_words: Counter[str] = field(default_factory=Counter)

    @property
    def captions(self) -> int:
        """Return the number of captions."""
        return self.words_per_caption.total()


class Coverage(NamedTuple):
    """The vocabulary of the first group for one minimum count, and what it covers."""

    min_count: int  # words of the first group that occur less often are <unk>
    words: int  # size of the vocabulary
    shares: dict[str, float]  # split → share of its words that are known


def captions_of(splits: Iterable[Split]) -> list[str]:
    """Return the captions of splits, with and without images."""
    captions: list[str] = []
    for split in splits:
        captions += (caption for example in split.examples for caption in example.captions)
        captions += (example.caption for example in split.text)
    return captions


def compute_statistics(
    split: Split,
    infos: Mapping[Path | StoredImage, ImageInfo],
    tokenize: Callable[[str], list[str]],
    *,
    max_length: int,
) -> SplitStatistics:
    """Count captions, words and readable images, and record problems of captions."""
    words: Counter[str] = Counter()
    lengths: Counter[int] = Counter()
    examples = split.examples
    captioned = [(repr(each.image_id), each.captions) for each in examples]
    captioned += [(each.place, each.captions) for each in split.text]
    for place, captions in track(
        captioned, total=len(captioned), doing="counting words", unit="images"
    ):
        for caption in captions:
            tokens = tokenize(caption)
            words.update(tokens)
            lengths[len(tokens)] += 1
            _check_caption(split.problems, place, caption, len(tokens), max_length=max_length)
    headers = [infos[example.path].header for example in examples if example.path in infos]
    return SplitStatistics(
        images=len(examples),
        captions_per_image=Counter(len(example.captions) for example in examples),
        words_per_caption=lengths,
        words=words,
        sizes=Counter((header.width, header.height) for header in headers),
        modes=Counter(header.mode for header in headers),
    )


def _check_caption(
    problems: Problems, place: str, caption: str, num_words: int, *, max_length: int
) -> None:
    """Record a caption of more than `max_length` words, without a word, or with wrong encoding."""
    case = f"{place}: {shorten(caption)!r}"
    if num_words > max_length:
        kind = f"captions of more than {max_length} words, cut in training"
        problems.add_warning(kind, [f"{case} ({num_words} words)"])
    if not num_words:
        problems.add_warning("captions without a word, kept", [case])
    if not caption.isascii() and has_wrong_encoding(caption):
        problems.add_warning("captions with a wrong encoding, kept", [case])


def shorten(caption: str) -> str:
    """Return the first characters of a caption, to be quoted."""
    return caption if len(caption) <= MAX_EXCERPT else caption[:MAX_EXCERPT] + "..."


def has_wrong_encoding(caption: str) -> bool:
    """Return whether characters were lost, or UTF-8 was decoded as Latin-1 or Windows-1252.

    An example of the latter is "cafÃ©" for "café".
    """
    if LOST_CHARACTERS.search(caption):
        return True
    for encoding in ("latin-1", "cp1252"):
        try:
            caption.encode(encoding).decode("utf-8")
        except UnicodeError:
            continue
        return True
    return False


def vocabulary_coverage(
    words_of: Mapping[str, Counter[str]], learnt: Collection[str]
) -> list[Coverage]:
    """Compute size and coverage of the vocabulary of the splits `learnt` for each minimum count.

    Args:
        words_of: the words of each split.
        learnt: the splits that supply the vocabulary.
    """
    counts = sum((words_of[name] for name in learnt), Counter())
    rows = []
    for min_count in MIN_COUNTS:
        known = {word for word, count in counts.items() if count >= min_count}
        shares = {name: _known_share(words, known) for name, words in words_of.items()}
        rows.append(Coverage(min_count, len(known), shares))
    return rows


def _known_share(words: Counter[str], known: set[str]) -> float:
    return sum(count for word, count in words.items() if word in known) / max(1, words.total())
