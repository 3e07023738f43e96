"""Load the examples of a data set from annotation files of any format. No image is opened."""

from __future__ import annotations

import os
import random
from collections.abc import Hashable, Iterable, Sequence
from itertools import chain
from pathlib import Path
from typing import NamedTuple, Protocol, TypeVar

from captioner.data.formats import (
    Annotations,
    Entry,
    find_file,
    read_annotations,
    refuse_options,
)
from captioner.data.images import HasRead
from captioner.data.lookup import ImageFolder, Lookup, find_elsewhere, is_outside, missing_path
from captioner.data.problems import Problems, repeated
from captioner.errors import UsageError

AnyExample = TypeVar("AnyExample")

TAR = ".tar"  # shards: see `captioner.data.shard_examples`
LEADS_OUT = " (the name leads out of the folder)"


class StoredImage(HasRead, Hashable, Protocol):
    """An image that is no file of its own, such as a member of a tar. Workers get a copy."""

    @property
    def name(self) -> str:
        """What messages call it; no other image of its data set has this name."""
        ...


class Example(NamedTuple):
    """An image with its captions."""

    image_id: int | str  # a number in COCO and Karpathy files, else the file name
    path: Path | StoredImage
    captions: tuple[str, ...]


class LoadedExamples(NamedTuple):
    """The examples of a split, and which of their images are missing."""

    examples: list[Example]
    missing: set[Path | StoredImage]


def load_examples(
    annotations: Path,
    images: Path | None = None,
    split: str | None = None,
    *,
    restval: bool = False,
) -> list[Example]:
    """Load one split. Empty captions are left out; their number is logged.

    Args:
        annotations: the file (COCO, Karpathy, JSON lines, CSV or Flickr token file), a folder
            with captions.jsonl, captions.csv or captions.txt, or shards: {00000..00099}.tar.
        images: the folder of the images. By default, the usual places are searched.
        split: train, val or test of a Karpathy file; for JSON lines, CSV and token files, a file
            that lists image names.
        restval: whether `restval` of a Karpathy file joins `train`.

    Raises:
        UsageError: the file cannot be read, or has errors. The message lists all kinds with counts:
            repeated and unknown ids, missing images, wrong types.
    """
    problems = Problems(annotations)
    loaded = load_with_problems(annotations, images, split, restval=restval, problems=problems)
    problems.raise_errors()
    return loaded.examples


def load_with_problems(
    annotations: Path,
    images: Path | None,
    split: str | None,
    *,
    restval: bool,
    skip_missing: bool = False,
    problems: Problems,
) -> LoadedExamples:
    """Load a split as `load_examples` does, but record its errors in `problems` and continue.

    Images that are missing are returned too. They are an error, unless `skip_missing` says that the
    caller leaves them out.

    Raises:
        UsageError: the file cannot be read, or holds no image with a caption.
    """
    if annotations.suffix == TAR:
        refuse_options(annotations, images=images, split=split, restval=restval)
        return LoadedExamples(_load_tars(annotations, problems, skip_missing), set())
    if images is not None and not os.path.isdir(images):
        raise UsageError(f"{images}: no such folder of images")
    content = _read(annotations, split, restval, problems)
    base = find_file(annotations).parent
    root = images or _find_image_folder(content, base)
    lookup = ImageFolder(root, base).find_all(entry.file for entry in content.entries)
    first = next((name for name, hint in lookup.missing.items() if not hint), None)
    # This is the wrong folder if none is found; else the others may be in folders inside it.
    parents = [root] if lookup.found else [base, root, root.parent]
    if first and (elsewhere := find_elsewhere(first, parents)):
        way_out = "" if lookup.found else ": name this folder in `images`"
        lookup.missing[first] = f"it is in {elsewhere}{way_out}"
    _record_missing(problems, root, lookup, skip_missing=skip_missing)
    paths = {name: root / file for name, file in lookup.found.items()}
    missing = {name: missing_path(root, name) for name in lookup.missing}
    paths |= missing
    examples = [
        Example(entry.image_id, paths[entry.file], nonempty(entry.captions))
        for entry in content.entries
    ]
    return LoadedExamples(examples, set(missing.values()))


def _record_missing(problems: Problems, root: Path, lookup: Lookup, *, skip_missing: bool) -> None:
    """Record the images that are missing, or whose names are written in another way."""
    add = problems.add_warning if skip_missing else problems.add_error
    effect = ", skipped in training" if skip_missing else ""
    cases = (
        f"{name!r} ({hint})" if hint else f"{name!r}{LEADS_OUT if is_outside(name) else ''}"
        for name, hint in lookup.missing.items()
    )
    add(f"images missing in {root}{effect}", cases)
    respelled = (f"{name!r} is {file!r}" for name, file in lookup.respelled.items())
    problems.add_warning("image names written otherwise than their files, found", respelled)


def load_references(annotations: Path, split: str | None = None) -> dict[int | str, list[str]]:
    """Load the captions of each image id, for evaluation. The images need not exist.

    Raises:
        UsageError: as in `load_examples`, except for missing images.
    """
    problems = Problems(annotations)
    if annotations.suffix == TAR:
        refuse_options(annotations, split=split)
        examples = _load_tars(annotations, problems, False)
        problems.raise_errors()
        return {example.image_id: [*example.captions] for example in examples}
    content = _read(annotations, split, False, problems)
    problems.raise_errors()
    return {entry.image_id: list(nonempty(entry.captions)) for entry in content.entries}


def _load_tars(path: Path, problems: Problems, skip_damaged: bool) -> list[Example]:
    from captioner.data.shard_examples import load_shards

    return load_shards([str(path)], problems, skip_damaged=skip_damaged)


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
    uncaptioned = (repr(entry.image_id) for entry in entries if not nonempty(entry.captions))
    problems.add_warning("images without a caption, left out", uncaptioned)
    captioned = [entry for entry in entries if nonempty(entry.captions)]
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


def nonempty(captions: Iterable[str | None]) -> tuple[str, ...]:
    """Return the captions that are more than white space, without it at their ends."""
    return tuple(caption.strip() for caption in captions if caption and not caption.isspace())


def _find_image_folder(content: Annotations, base: Path) -> Path:
    """Return the usual folder with the most of the images; of equal ones, the first that exists.

    Only some images are looked for, from the whole file. If folders have equally many, the one
    that has more of them under their exact names is taken.
    """
    files = [entry.file for entry in content.entries]
    files = [*files[:20], *files[20 :: max(1, len(files) // 100)]]
    folders = [ImageFolder(folder, base) for folder in content.folders if os.path.isdir(folder)]

    def hits(folder: ImageFolder) -> tuple[int, int]:
        lookup = folder.find_all(files)
        return len(lookup.found), len(lookup.found) - len(lookup.respelled)

    return max(folders, key=hits).root  # the first of equal ones
