"""A data set's check-up: everything that is wrong with it, and what it is like. Knows no config and no page."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import NamedTuple

from captioner.checkup.leakage import Inspection, inspect_images, note_shared_images
from captioner.checkup.statistics import Coverage, SplitStatistics, coverage, describe
from captioner.console import track
from captioner.data.datasets import Example
from captioner.data.problems import Problems
from captioner.errors import ImageError


class Split(NamedTuple):
    """A part of a data set, as far as it could be read, and what was found wrong on the way."""

    name: str
    examples: Sequence[Example]
    missing: Collection[Path]  # images of theirs, noted already
    problems: Problems  # of its annotation file, which it may share with other splits


@dataclass(frozen=True)
class Checkup:
    """What was found."""

    problems: list[Problems]  # of each annotation file, and of each two splits
    splits: dict[str, SplitStatistics]
    vocabulary: list[Coverage]

    @property
    def found(self) -> int:
        """How many things are wrong."""
        return sum(len(problem.things) for problems in self.problems for problem in problems)


def check(splits: Sequence[Split], *, max_length: int) -> Checkup:
    """Read every image to its end, count, and compare each two splits.

    Args:
        splits: with other names each; the first is the one that a vocabulary is made from.
        max_length: words of a caption beyond which it is called too long.
    """
    inspections = _inspect(splits)
    between = []
    for one, other in combinations(splits, 2):
        between.append(Problems(f"{one.name} and {other.name}"))
        note_shared_images(between[-1], one.examples, other.examples, inspections)
    statistics = {
        split.name: describe(split.examples, inspections, split.problems, max_length=max_length)
        for split in splits
    }
    own = {id(split.problems): split.problems for split in splits}  # each once
    return Checkup([*own.values(), *between], statistics, coverage(statistics))


def _inspect(splits: Sequence[Split]) -> dict[Path, Inspection]:
    """Inspect each image once, and note those that cannot be read."""
    named = ((example.path, split) for split in splits for example in split.examples)
    owners = {path: split for path, split in named if path not in split.missing}
    readable = {}
    found = track(inspect_images(owners), total=len(owners), doing="reading images", unit="images")
    for (path, split), inspection in zip(owners.items(), found, strict=True):
        if isinstance(inspection, ImageError):
            kind = re.split(r"[:(,]", inspection.reason)[
                0
            ].strip()  # reasons begin with what is the matter
            split.problems.add(f"images that cannot be read: {kind}", [inspection])
        else:
            readable[path] = inspection
    return readable
