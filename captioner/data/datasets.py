"""Annotations and the images they speak of → one validated list, whatever the format. Opens no image.

Everything that is wrong is told at once, before anything is started; captions that say nothing are dropped and counted.
"""

from __future__ import annotations

import contextlib
import os
import random
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar

from captioner.data.formats import Annotations, Entry, read_annotations
from captioner.data.problems import Problems
from captioner.errors import UsageError

Thing = TypeVar("Thing")


class Example(NamedTuple):
    """An image and what people said of it."""

    image_id: (
        int | str
    )  # COCO's and Karpathy's number; else the file's name as the annotations write it
    path: Path
    captions: tuple[str, ...]


class Found(NamedTuple):
    """What a split holds, whether or not anything may be started with it."""

    examples: list[Example]
    missing: set[Path]  # images of theirs that are not there


def load_examples(
    annotations: Path,
    images: Path | None = None,
    split: str | None = None,
    *,
    restval: bool = False,
) -> list[Example]:
    """Read one split of a data set: COCO, Karpathy's, Flickr8k's and 30k's, CSV, JSON lines, or a folder with them.

    Args:
        annotations: the file, or a folder that holds captions.jsonl, captions.csv or captions.txt.
        images: the folder that image names start from; without it, the usual places are tried.
        split: Karpathy's train, val or test; elsewhere than in COCO a file that lists image names.
        restval: let Karpathy's `restval` join `train`.

    Raises:
        UsageError: everything that is wrong, each kind with its count: repeated and unknown ids, missing images,
            names that lead out of the folder, wrong types; or why the file cannot be read at all.
    """
    problems = Problems(annotations)
    found = read_examples(annotations, images, split, restval=restval, problems=problems)
    problems.refuse()
    return found.examples


def read_examples(
    annotations: Path, images: Path | None, split: str | None, *, restval: bool, problems: Problems
) -> Found:
    """Read a split as `load_examples` does, but note in `problems` what is wrong with it, and go on.

    Images that lead out of their folder are no examples: nobody should open them.

    Raises:
        UsageError: it cannot be read at all, or says nothing of any image.
    """
    if images is not None and not os.path.isdir(images):
        raise UsageError(f"{images}: no such folder of images")
    found = _read(annotations, split, restval, problems)
    root = images or _usual_folder(found)
    leading_out = {entry.file for entry in found.entries if _leads_out(entry.file)}
    problems.add("image names that lead out of their folder", map(repr, leading_out))
    inside = [entry for entry in found.entries if entry.file not in leading_out]
    missing = _missing(root, (entry.file for entry in inside))
    problems.add(f"images missing in {root}, where their names begin", map(repr, missing))
    examples = [
        Example(entry.image_id, root / entry.file, _said(entry.captions)) for entry in inside
    ]
    return Found(examples, {root / file for file in missing})


def load_references(annotations: Path, split: str | None = None) -> dict[int | str, list[str]]:
    """Read what people said of each image, by image id: all that an evaluation needs. The images need not be there.

    Raises:
        UsageError: as `load_examples`, less what concerns image files.
    """
    problems = Problems(annotations)
    found = _read(annotations, split, False, problems)
    problems.refuse()
    return {entry.image_id: list(_said(entry.captions)) for entry in found.entries}


def hold_out(examples: Sequence[Thing], share: float) -> tuple[list[Thing], list[Thing]]:
    """Set a share of a data set aside as dev, at least one: the same whoever asks. Gives train and dev."""
    shuffled = list(examples)
    random.Random(0).shuffle(shuffled)
    held_out = max(1, round(share * len(shuffled)))
    return shuffled[held_out:], shuffled[:held_out]


def _read(annotations: Path, split: str | None, restval: bool, problems: Problems) -> Annotations:
    """Read the entries that say something, and note image ids that are there twice and captions that are empty."""
    entries, folders = read_annotations(annotations, split, restval, problems)
    counts = Counter(entry.image_id for entry in entries)
    problems.add(
        "image ids given more than once",
        (repr(image_id) for image_id in counts if counts[image_id] > 1),
    )
    problems.tolerate(
        "empty captions, left out", (place for entry in entries for place in _empty(entry))
    )
    silent = (repr(entry.image_id) for entry in entries if not _said(entry.captions))
    problems.tolerate("images without a caption, left out", silent)
    speaking = [entry for entry in entries if _said(entry.captions)]
    if not speaking and not problems.grave:
        raise UsageError(f"{annotations}: holds no image with a caption")
    return Annotations(speaking, folders)


def _empty(entry: Entry) -> list[str]:
    captions = enumerate(entry.captions, 1)
    return [
        f"{entry.image_id!r} #{number}"
        for number, caption in captions
        if not caption or caption.isspace()
    ]


def _said(captions: Iterable[str | None]) -> tuple[str, ...]:
    return tuple(caption.strip() for caption in captions if caption and not caption.isspace())


def _usual_folder(found: Annotations) -> Path:
    """Give the first usual folder that holds one of the first images; else the first that exists."""
    first = [entry.file for entry in found.entries[:20] if not _leads_out(entry.file)]
    holding = (
        folder for folder in found.folders if any(os.path.isfile(folder / file) for file in first)
    )
    existing = (folder for folder in found.folders if os.path.isdir(folder))
    return next(holding, None) or next(existing)


def _leads_out(file: str) -> bool:
    return (
        file.startswith(("/", "\\"))
        or bool(os.path.splitdrive(file)[0])
        or ".." in re.split(r"[/\\]", file)
    )


def _missing(root: Path, files: Iterable[str]) -> list[str]:
    """Give the files that are not there. Each folder is listed once: asking file by file is slow on a network disk."""
    listings: dict[str, set[str]] = {}
    missing = []
    for file in files:
        folder, name = os.path.split(file)
        if folder not in listings:
            listings[folder] = set()
            with contextlib.suppress(
                OSError, ValueError
            ):  # what cannot be listed is asked for file by file
                listings[folder].update(os.listdir(root / folder))
        if name not in listings[folder] and not os.path.isfile(
            root / file
        ):  # some disks ignore case
            missing.append(file)
    return missing
