"""Images that two splits share: by their ids, by their content, by their looks. Reads no file."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from captioner.console import track
from captioner.data.datasets import Example
from captioner.data.inspection import Inspection
from captioner.data.problems import Problems

NEAR = 4
"""Bits of 64 in which the hashes of near-duplicates differ at most.

Each image more makes a chance hit likelier: at 10 bits, a thousand photographs have some hundred among six thousand
others; at 4 none. `tests/data/test_overlap.py` measures both sides.
"""

BLOCK = 4_000_000  # pairs compared at a time: 32 MB

Hashes = NDArray[np.uint64]


def note_shared_images(
    problems: Problems, one: Sequence[Example], other: Sequence[Example], inspections: Mapping[Path, Inspection]
) -> None:
    """Note each image of `other` that stands in `one` too: by id; else by content; else by its looks, the nearest."""
    ids = {_identity(example): example for example in one}
    contents = {inspections[example.path].content: example for example in one if example.path in inspections}
    unlike = []
    for example in other:
        found = inspections.get(example.path)
        if (twin := ids.get(_identity(example))) is not None:
            problems.add("images in both splits, by id", [_pair(twin, example)])
        elif found and (twin := contents.get(found.content)) is not None:
            problems.add("images in both splits, by content", [_pair(twin, example)])
        else:
            unlike.append(example)
    known, hashes = _hashed(one, inspections)
    asked, others = _hashed(unlike, inspections)
    for place, nearest, bits in nearest_hashes(hashes, others):
        if bits <= NEAR:
            kind = f"near-duplicates in both splits: at most {NEAR} of their 64 bits of dHash differ"
            problems.add(kind, [f"{_pair(known[nearest], asked[place])} by {bits}"])


def nearest_hashes(known: Hashes, asked: Hashes) -> Iterator[tuple[int, int, int]]:
    """Give, for each hash that is `asked` for, its place, that of the nearest `known` one, and the bits that differ.

    Compares all with all, block by block: some 10^8 pairs a second of one core, with little memory.
    """
    if not len(known):
        return
    rows = max(1, BLOCK // len(known))
    starts = range(0, len(asked), rows)
    for start in track(starts, total=len(starts), doing="comparing splits", unit="blocks"):
        distances = np.bitwise_count(asked[start : start + rows, None] ^ known)  # (rows, known)
        nearest = distances.argmin(axis=1)
        for place, index in enumerate(nearest):
            yield start + place, int(index), int(distances[place, index])


def _hashed(examples: Sequence[Example], inspections: Mapping[Path, Inspection]) -> tuple[list[Example], Hashes]:
    """Give the examples whose looks are known, and their hashes."""
    found = [(example, inspections[example.path].picture) for example in examples if example.path in inspections]
    seen = [(example, picture) for example, picture in found if picture is not None]
    return [example for example, _ in seen], np.array([picture for _, picture in seen], dtype=np.uint64)


def _identity(example: Example) -> object:
    """Give what tells an image from all others: its number; where images go by name, which file that is."""
    named_by_file = example.path.as_posix().endswith(str(example.image_id)) and isinstance(example.image_id, str)
    return os.path.abspath(example.path) if named_by_file else example.image_id


def _pair(one: Example, other: Example) -> str:
    same = one.image_id == other.image_id
    return repr(one.image_id) if same else f"{one.image_id!r} and {other.image_id!r}"
