"""Check the splits of a data set: errors, statistics and leakage between splits."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import NamedTuple

from captioner.checkup.leakage import ImageInfo, read_image_infos, record_shared_images
from captioner.checkup.statistics import (
    Coverage,
    SplitStatistics,
    compute_statistics,
    vocabulary_coverage,
)
from captioner.console import track
from captioner.data.datasets import Example
from captioner.data.problems import Problems
from captioner.errors import ImageError


class Split(NamedTuple):
    """A split of a data set, and the problems found while loading it."""

    name: str
    examples: Sequence[Example]
    missing: Collection[Path]  # images that do not exist; already in `problems`
    problems: Problems  # of its annotation file; splits of one file share them


@dataclass(frozen=True)
class CheckResult:
    """The result of a check."""

    problems: list[Problems]  # one for each annotation file, and one for each pair of splits
    splits: dict[str, SplitStatistics]
    vocabulary: list[Coverage]

    @property
    def num_problems(self) -> int:
        """Return the number of cases of all kinds of problems."""
        return sum(len(problem.cases) for problems in self.problems for problem in problems)


def check_splits(splits: Sequence[Split], *, max_length: int) -> CheckResult:
    """Read every image completely, compute statistics, and compare each pair of splits.

    Args:
        splits: the splits, with different names. The first one supplies the vocabulary.
        max_length: largest number of words in a caption that training does not truncate.
    """
    infos = _read_images(splits)
    between_splits = []
    for first, second in combinations(splits, 2):
        between_splits.append(Problems(f"{first.name} and {second.name}"))
        record_shared_images(between_splits[-1], first.examples, second.examples, infos)
    statistics = {
        split.name: compute_statistics(split.examples, infos, split.problems, max_length=max_length)
        for split in splits
    }
    of_files = {id(split.problems): split.problems for split in splits}  # each once
    return CheckResult(
        [*of_files.values(), *between_splits], statistics, vocabulary_coverage(statistics)
    )


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
