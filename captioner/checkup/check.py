"""Check the splits of a data set: errors, statistics and leakage between splits."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import NamedTuple

from captioner.checkup.leakage import ImageInfo, read_image_infos, record_shared_images
from captioner.console import track
from captioner.data.datasets import Example
from captioner.data.plain_text import TextExample
from captioner.data.problems import Problems
from captioner.data.splits import divide_text, reference_words
from captioner.errors import ImageError
from captioner.text.tokenizer import tokenize

MIN_COUNTS = (1, 2, 3, 5, 10, 20)
LOST_CHARACTERS = re.compile("[\ufffd\ud800-\udc7f\udd00-\udfff]")  # or halves of one
MAX_EXCERPT = 60  # characters of a caption that are quoted


class Split(NamedTuple):
    """A split of a data set, and the problems found while loading it."""

    name: str
    examples: Sequence[Example]
    missing: Collection[Path]  # images that do not exist; already in `problems`
    problems: Problems  # of its annotation file; splits of one file share them
    text: Sequence[TextExample] = ()  # captions without images
    group: str = ""  # "train" or "dev" of a config; splits of one group are not compared


@dataclass(frozen=True)
class SplitStatistics:
    """Counts over one split. Image files that cannot be read do not count."""

    images: int  # with a caption
    captions_per_image: Counter[int]  # number of captions → images
    words_per_caption: Counter[int]  # number of words → captions
    words: Counter[str]
    sizes: Counter[tuple[int, int]]  # (width, height) in pixels, as stored → image files
    modes: Counter[str]  # Pillow's mode → image files

    @property
    def captions(self) -> int:
        """Return the number of captions."""
        return self.words_per_caption.total()


class Coverage(NamedTuple):
    """The vocabulary of the first group for one minimum count, and what it covers."""

    min_count: int  # words of the first group that occur less often are <unk>
    words: int  # size of the vocabulary
    shares: dict[str, float]  # split → share of the words in its captions that are known


@dataclass(frozen=True)
class CheckResult:
    """The result of a check."""

    problems: list[Problems]  # one for each annotation file, and one for each pair of splits
    splits: dict[str, SplitStatistics]
    learnt: list[str]  # the splits that supply the vocabulary
    vocabulary: list[Coverage]

    @property
    def num_problems(self) -> int:
        """Return the number of cases of all kinds of problems."""
        return sum(len(problem.cases) for problems in self.problems for problem in problems)


def check_splits(splits: Sequence[Split], *, max_length: int) -> CheckResult:
    """Read every image completely, compute statistics, and compare each pair of splits.

    Args:
        splits: the splits, with different names. Those of the first one's group, or else it alone,
            supply the vocabulary.
        max_length: largest number of words in a caption that training does not truncate.
    """
    infos = _read_images(splits)
    between_splits = []
    for first, second in combinations(splits, 2):
        if not (first.group and first.group == second.group):
            between_splits.append(Problems(f"{first.name} and {second.name}"))
            record_shared_images(between_splits[-1], first.examples, second.examples, infos)
            record_leaked_text(between_splits[-1], first.text, second.examples)
    statistics = {
        split.name: compute_statistics(split, infos, max_length=max_length) for split in splits
    }
    group = splits[0].group
    learnt = [split.name for split in splits if group and split.group == group] or [splits[0].name]
    of_files = {id(split.problems): split.problems for split in splits}  # each once
    return CheckResult(
        [*of_files.values(), *between_splits],
        statistics,
        learnt,
        vocabulary_coverage(statistics, learnt),
    )


def record_leaked_text(
    problems: Problems, text: Sequence[TextExample], references: Sequence[Example]
) -> None:
    """Record each caption without an image whose words equal those of a reference."""
    if not text:
        return
    _, leaked = divide_text(text, reference_words(references))
    cases = (f"{each.place}: {shorten(each.caption)!r}" for each in leaked)
    problems.add_warning("captions of text that are references, left out", cases)


def _read_images(splits: Sequence[Split]) -> dict[Path, ImageInfo]:
    """Read each image once, and record those that cannot be read."""
    pairs = ((example.path, split) for split in splits for example in split.examples)
    split_of = {path: split for path, split in pairs if path not in split.missing}
    results = track(
        read_image_infos(split_of), total=len(split_of), doing="reading images", unit="images"
    )
    infos = {}
    for (path, split), result in zip(split_of.items(), results, strict=True):
        if isinstance(result, ImageError):
            kind = re.split(r"[:(,]", result.reason)[0].strip()  # details follow after : ( or ,
            split.problems.add_error(f"images that cannot be read: {kind}", [result])
        else:
            infos[path] = result
    return infos


def compute_statistics(
    split: Split, infos: Mapping[Path, ImageInfo], *, max_length: int
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
    splits: Mapping[str, SplitStatistics], learnt: Collection[str]
) -> list[Coverage]:
    """Compute size and coverage of the vocabulary of the splits `learnt` for each minimum count."""
    counts = sum((splits[name].words for name in learnt), Counter())
    rows = []
    for min_count in MIN_COUNTS:
        known = {word for word, count in counts.items() if count >= min_count}
        shares = {name: _known_share(split.words, known) for name, split in splits.items()}
        rows.append(Coverage(min_count, len(known), shares))
    return rows


def _known_share(words: Counter[str], known: set[str]) -> float:
    return sum(count for word, count in words.items() if word in known) / max(1, words.total())
