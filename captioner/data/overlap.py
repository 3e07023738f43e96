"""Images that two splits share: by their ids, by their content, by their looks. Reads no file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from captioner.data.datasets import Example
from captioner.data.inspection import Inspection
from captioner.data.looks import stack, twins
from captioner.data.problems import Problems


def note_shared_images(
    problems: Problems, one: Sequence[Example], other: Sequence[Example], inspections: Mapping[Path, Inspection]
) -> None:
    """Note each image of `other` that stands in `one` too: by id; else by content; else by its looks.

    Ids that were counted from 1 for each split are no sign: the same id on other content is another image.
    """

    def content(example: Example) -> bytes | None:
        return inspections[example.path].content if example.path in inspections else None

    ids = {example.image_id: example for example in one}
    contents = {content(example): example for example in one if content(example)}
    unlike = []
    for example in other:
        named, same = ids.get(example.image_id), contents.get(content(example))
        if named and (content(named) == content(example) or None in (content(named), content(example))):
            problems.tolerate("images in both splits, by id", [repr(example.image_id)])
        elif same:
            problems.tolerate("images in both splits, by content", [_pair(same, example)])
        else:
            unlike.append(example)
    known = [example for example in one if example.path in inspections]
    asked = [example for example in unlike if example.path in inspections]
    looks = [stack([inspections[example.path].thumbnail for example in examples]) for examples in (known, asked)]
    for twin in twins(*looks):
        kind = "near-duplicates in both splits, whose dHash and thumbnail are nearly the same"
        pair = _pair(known[twin.known], asked[twin.asked])
        problems.tolerate(kind, [f"{pair} ({twin.bits} bits, correlation {twin.correlation:.3f})"])


def _pair(one: Example, other: Example) -> str:
    return f"{one.image_id!r} and {other.image_id!r}"
