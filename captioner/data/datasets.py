"""Annotations and the images they speak of → one validated list, whatever the format. Opens no image.

Everything that is wrong is told at once, before anything is started; captions that say nothing are dropped and counted.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from captioner.data.checks import Problems
from captioner.data.formats import Annotations, read_annotations
from captioner.errors import UsageError

logger = logging.getLogger("captioner")


class Example(NamedTuple):
    """An image and what people said of it."""

    image_id: int | str  # COCO's and Karpathy's number; else the file's name as the annotations write it
    path: Path
    captions: tuple[str, ...]


def load_examples(
    annotations: Path, images: Path | None = None, split: str | None = None, *, restval: bool = False
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
    if images is not None and not os.path.isdir(images):
        raise UsageError(f"{images}: no such folder of images")
    problems = Problems(annotations)
    found = _read(annotations, split, restval, problems)
    root = images or _usual_folder(found)
    leading_out = {entry.file for entry in found.entries if _leads_out(entry.file)}
    problems.add("image names that lead out of their folder", map(repr, leading_out))
    missing = _missing(root, (entry.file for entry in found.entries if entry.file not in leading_out))
    problems.add(f"images missing in {root}, where their names begin", missing)
    _refuse(annotations, found, problems)
    return [Example(entry.image_id, root / entry.file, tuple(filter(None, entry.captions))) for entry in found.entries]


def load_references(annotations: Path, split: str | None = None) -> dict[int | str, list[str]]:
    """Read what people said of each image, by image id: all that an evaluation needs. The images need not be there.

    Raises:
        UsageError: as `load_examples`, less what concerns image files.
    """
    problems = Problems(annotations)
    found = _read(annotations, split, False, problems)
    _refuse(annotations, found, problems)
    return {entry.image_id: list(filter(None, entry.captions)) for entry in found.entries}


def _read(annotations: Path, split: str | None, restval: bool, problems: Problems) -> Annotations:
    """Read the entries that say something, and note image ids that are there twice."""
    entries, folders = read_annotations(annotations, split, restval, problems)
    counts = Counter(entry.image_id for entry in entries)
    problems.add("image ids given more than once", (repr(image_id) for image_id in counts if counts[image_id] > 1))
    cleaned = [entry._replace(captions=_said(entry.captions)) for entry in entries]
    speaking = [entry for entry in cleaned if entry.captions]
    empty = sum(len(entry.captions) for entry in entries) - sum(len(entry.captions) for entry in speaking)
    if empty:
        logger.warning("%s: empty captions, left out: %s", annotations, f"{empty:,}")
    if len(speaking) < len(entries):
        logger.warning("%s: images without a caption, left out: %s", annotations, f"{len(entries) - len(speaking):,}")
    return Annotations(speaking, folders)


def _said(captions: Iterable[str | None]) -> tuple[str, ...]:
    return tuple(caption.strip() for caption in captions if caption and not caption.isspace())


def _refuse(annotations: Path, found: Annotations, problems: Problems) -> None:
    problems.refuse()
    if not found.entries:
        raise UsageError(f"{annotations}: holds no image with a caption")


def _usual_folder(found: Annotations) -> Path:
    """Give the first usual folder that holds one of the first images; else the first that exists."""
    first = [entry.file for entry in found.entries[:20] if not _leads_out(entry.file)]
    holding = (folder for folder in found.folders if any(os.path.isfile(folder / file) for file in first))
    existing = (folder for folder in found.folders if os.path.isdir(folder))
    return next(holding, None) or next(existing)


def _leads_out(file: str) -> bool:
    return file.startswith(("/", "\\")) or bool(os.path.splitdrive(file)[0]) or ".." in re.split(r"[/\\]", file)


def _missing(root: Path, files: Iterable[str]) -> list[str]:
    """Name the files that are not there. Each folder is listed once: asking file by file is slow on a network disk."""
    listings: dict[str, set[str]] = {}
    missing = []
    for file in files:
        folder, name = os.path.split(file)
        if folder not in listings:
            listings[folder] = set()
            with contextlib.suppress(OSError, ValueError):  # what cannot be listed is asked for file by file
                listings[folder].update(os.listdir(root / folder))
        if name not in listings[folder] and not os.path.isfile(root / file):  # some disks ignore case
            missing.append(repr(file))
    return missing
