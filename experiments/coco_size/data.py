"""Data of COCO's size: hard links to a few photographs, and captions that are drawn at random."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from captioner.data.datasets import load_references
from captioner.data.images import find_images
from captioner.errors import UsageError
from captioner.progress import track
from captioner.storage import atomic_file

TRAIN_IMAGES, TRAIN_CAPTIONS = 118_287, 591_753  # of captions_train2017.json
DEV_IMAGES, DEV_CAPTIONS = 5_000, 25_014  # of captions_val2017.json
LINKS_PER_FILE = 30_000  # ext4 allows 65,000 names of a file


class Split(NamedTuple):
    """The numbers of images and captions of a split, and its names in both formats."""

    name: str  # of COCO
    images: int
    captions: int
    karpathy: Sequence[str]  # which splits of Karpathy's file its images belong to


class Files(NamedTuple):
    """What the rehearsal reads."""

    train: Path  # COCO's format
    dev: Path
    karpathy: Path  # both splits
    images: Path


def make_data(
    folder: Path, photographs: str, captions: Sequence[Path], *, scale: float, seed: int
) -> Files:
    """Write both annotation files and the images, unless a run before has made them.

    Args:
        folder: for all of it.
        photographs: a folder or glob of images, each of which gets many names.
        captions: annotation files whose captions are drawn from.
        scale: of COCO's size; 1: all of it.
        seed: of the captions that are drawn.

    Raises:
        UsageError: there are no photographs, or too few for the links that a file can have.
    """
    files = Files(
        folder / "annotations" / "captions_train2017.json",
        folder / "annotations" / "captions_val2017.json",
        folder / "dataset_coco.json",
        folder,
    )
    made = folder / "made.json"
    facts = {"photographs": photographs, "captions": [*map(str, captions)], "scale": scale}
    if made.exists() and json.loads(made.read_text(encoding="utf-8")) == facts | {"seed": seed}:
        return files
    splits = (
        Split(
            "train2017", _scaled(TRAIN_IMAGES, scale), _scaled(TRAIN_CAPTIONS, scale), ("train",)
        ),
        Split("val2017", _scaled(DEV_IMAGES, scale), _scaled(DEV_CAPTIONS, scale), ("val",)),
    )
    found = find_images([photographs]).files
    needed = sum(split.images for split in splits)
    if len(found) * LINKS_PER_FILE < needed:
        raise UsageError(f"{len(found)} photographs are too few for {needed:,} names: give more")
    pool = [text for file in captions for each in load_references(file).values() for text in each]
    sources = _copy(found, folder / "photographs")
    rng = random.Random(seed)
    karpathy: list[dict[str, Any]] = []
    first_id = 1
    for split in splits:
        names = [f"{number:012d}.jpg" for number in range(first_id, first_id + split.images)]
        _link(sources, folder / split.name, names)
        rows = list(_captions(split, first_id, pool, rng))
        _write_coco(files.train if split.name == "train2017" else files.dev, names, first_id, rows)
        karpathy += _karpathy_images(split, first_id, names, rows)
        first_id += split.images
    _write(files.karpathy, {"images": karpathy, "dataset": "coco"})
    _write(made, facts | {"seed": seed})
    return files


def _scaled(number: int, scale: float) -> int:
    return max(10, round(number * scale))


def _copy(photographs: Sequence[Path], folder: Path) -> list[Path]:
    """Copy the photographs once: a link cannot lead to another file system."""
    folder.mkdir(parents=True, exist_ok=True)
    copies = [folder / f"{number:06d}.jpg" for number in range(len(photographs))]
    for source, copy in zip(photographs, copies, strict=True):
        copy.write_bytes(source.read_bytes())
    return copies


def _link(sources: Sequence[Path], folder: Path, names: Sequence[str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    numbered = track(enumerate(names), total=len(names), doing="linking", unit="images")
    for number, name in numbered:
        path = folder / name
        if not path.exists():
            os.link(sources[number % len(sources)], path)


def _captions(
    split: Split, first_id: int, pool: Sequence[str], rng: random.Random
) -> Iterator[tuple[int, str]]:
    """Yield the image id of each caption and its text: five an image, and more of the first."""
    for number in range(split.captions):
        yield first_id + number % split.images, rng.choice(pool)


def _write_coco(
    path: Path, names: Sequence[str], first_id: int, rows: Sequence[tuple[int, str]]
) -> None:
    images = [
        {"id": image_id, "file_name": name, "height": 480, "width": 640}
        for image_id, name in enumerate(names, first_id)
    ]
    annotations = [
        {"id": number, "image_id": image_id, "caption": text}
        for number, (image_id, text) in enumerate(rows, first_id)
    ]
    _write(path, {"images": images, "annotations": annotations})


def _karpathy_images(
    split: Split, first_id: int, names: Sequence[str], rows: Sequence[tuple[int, str]]
) -> list[dict[str, Any]]:
    texts: dict[int, list[str]] = {}
    for image_id, text in rows:
        texts.setdefault(image_id, []).append(text)
    return [
        {
            "filepath": split.name,
            "filename": name,
            "cocoid": image_id,
            "imgid": image_id,
            "split": split.karpathy[number % len(split.karpathy)],
            "sentences": [{"raw": text, "tokens": text.split()} for text in texts[image_id]],
        }
        for number, (image_id, name) in enumerate(enumerate(names, first_id))
    ]


def _write(path: Path, content: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(path) as file:
        json.dump(content, file)
