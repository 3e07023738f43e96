"""Load the examples of a data set from annotation files of any format. No image is opened."""

from __future__ import annotations

import contextlib
import os
import random
import re
from collections.abc import Iterable, Sequence
from itertools import chain
from pathlib import Path
from typing import NamedTuple, TypeVar

from captioner.data.formats import Annotations, Entry, read_annotations
from captioner.data.problems import Problems, repeated
from captioner.errors import UsageError

AnyExample = TypeVar("AnyExample")


class Example(NamedTuple):
    """An image with its captions."""

    image_id: int | str  # a number in COCO and Karpathy files, else the file name
    path: Path
    captions: tuple[str, ...]


class LoadedExamples(NamedTuple):
    """The examples of a split, and which of their images are missing."""

    examples: list[Example]
    missing: set[Path]


def load_examples(
    annotations: Path,
    images: Path | None = None,
    split: str | None = None,
    *,
    restval: bool = False,
) -> list[Example]:
    """Load one split. Empty captions are left out; their number is logged.

    Args:
        annotations: the file (COCO, Karpathy, JSON lines, CSV or Flickr token file), or a folder
            with captions.jsonl, captions.csv or captions.txt.
        images: the folder of the images. By default, the usual places are searched.
        split: train, val or test of a Karpathy file; for JSON lines, CSV and token files, a file
            that lists image names.
        restval: whether `restval` of a Karpathy file joins `train`.

    Raises:
        UsageError: the file cannot be read, or has errors. The message lists all kinds with counts:
            repeated and unknown ids, missing images, names outside the folder, wrong types.
    """
    problems = Problems(annotations)
    loaded = load_with_problems(annotations, images, split, restval=restval, problems=problems)
    problems.raise_errors()
    return loaded.examples


def load_with_problems(
    annotations: Path, images: Path | None, split: str | None, *, restval: bool, problems: Problems
) -> LoadedExamples:
    """Load a split as `load_examples` does, but record its errors in `problems` and continue.

    Raises:
        UsageError: the file cannot be read, or holds no image with a caption.
    """
    if images is not None and not os.path.isdir(images):
        raise UsageError(f"{images}: no such folder of images")
    content = _read(annotations, split, restval, problems)
    root = images or _find_image_folder(content)
    outside = {entry.file for entry in content.entries if _is_outside(entry.file)}
    problems.add_error("image names that lead out of their folder", map(repr, outside))
    # No caller opens the other images.
    inside = [entry for entry in content.entries if entry.file not in outside]
    missing = _find_missing(root, (entry.file for entry in inside))
    problems.add_error(f"images missing in {root}", map(repr, missing))
    examples = [
        Example(entry.image_id, root / entry.file, _nonempty(entry.captions)) for entry in inside
    ]
    return LoadedExamples(examples, {root / file for file in missing})


def load_references(annotations: Path, split: str | None = None) -> dict[int | str, list[str]]:
    """Load the captions of each image id, for evaluation. The images need not exist.

    Raises:
        UsageError: as in `load_examples`, except for missing images and names outside the folder.
    """
    problems = Problems(annotations)
    content = _read(annotations, split, False, problems)
    problems.raise_errors()
    return {entry.image_id: list(_nonempty(entry.captions)) for entry in content.entries}


def train_dev_split(
    examples: Sequence[AnyExample], dev_share: float
) -> tuple[list[AnyExample], list[AnyExample]]:
    """Split examples at random into train and dev, with at least one in dev. The seed is fixed."""
    shuffled = list(examples)
    random.Random(0).shuffle(shuffled)
    dev_size = max(1, round(dev_share * len(shuffled)))
    return shuffled[dev_size:], shuffled[:dev_size]


def _read(annotations: Path, split: str | None, restval: bool, problems: Problems) -> Annotations:
    """Read the entries that have a caption; record repeated image ids and empty captions."""
    entries, folders = read_annotations(annotations, split, restval, problems)
    problems.add_error(
        "image ids given more than once", repeated(entry.image_id for entry in entries)
    )
    problems.add_warning(
        "empty captions, left out", chain.from_iterable(map(_empty_captions, entries))
    )
    uncaptioned = (repr(entry.image_id) for entry in entries if not _nonempty(entry.captions))
    problems.add_warning("images without a caption, left out", uncaptioned)
    captioned = [entry for entry in entries if _nonempty(entry.captions)]
    if not captioned and not problems.errors:
        raise UsageError(f"{annotations}: holds no image with a caption")
    return Annotations(captioned, folders)


def _empty_captions(entry: Entry) -> list[str]:
    """Return the image id and the number of each empty caption."""
    return [
        f"{entry.image_id!r} #{number}"
        for number, caption in enumerate(entry.captions, 1)
        if not caption or caption.isspace()
    ]


def _nonempty(captions: Iterable[str | None]) -> tuple[str, ...]:
    return tuple(caption.strip() for caption in captions if caption and not caption.isspace())


def _find_image_folder(content: Annotations) -> Path:
    """Return the first usual folder with one of the first images, else the first that exists."""
    files = [entry.file for entry in content.entries[:20] if not _is_outside(entry.file)]
    for folder in content.folders:
        if any(os.path.isfile(folder / file) for file in files):
            return folder
    return next(folder for folder in content.folders if os.path.isdir(folder))


def _is_outside(file: str) -> bool:
    """Return whether a relative file name leads out of its folder."""
    is_absolute = file.startswith(("/", "\\")) or bool(os.path.splitdrive(file)[0])
    return is_absolute or ".." in re.split(r"[/\\]", file)


def _find_missing(root: Path, files: Iterable[str]) -> list[str]:
    """Return the files that do not exist.

    Each folder is listed once, since a call for each file is slow on a network disk.
    """
    listings: dict[str, set[str]] = {}
    missing = []
    for file in files:
        folder, name = os.path.split(file)
        if folder not in listings:
            listings[folder] = set()
            with contextlib.suppress(OSError, ValueError):  # then each file is checked on its own
                listings[folder].update(os.listdir(root / folder))
        # A listing may write a name in another case, if the file system ignores case.
        if name not in listings[folder] and not os.path.isfile(root / file):
            missing.append(file)
    return missing
