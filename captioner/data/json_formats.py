"""COCO's and Karpathy's JSON → entries. Looks at no file."""

from __future__ import annotations

import contextlib
import io
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from captioner.data.problems import Problems
from captioner.data.records import ID, TEXT, Entry, fits
from captioner.errors import UsageError


def _repeated(things: Iterable[object]) -> list[str]:
    return [repr(thing) for thing, count in Counter(things).items() if count > 1]


def read_coco(images: list[Any], annotations: list[Any], problems: Problems) -> list[Entry]:
    """Validate what pycocotools takes silently (two annotations of one id give a wrong caption), then let it read."""
    listed = {image["id"] for image in images if isinstance(image, dict) and type(image.get("id")) in ID}
    types: dict[str, tuple[type, ...]] = {"id": ID, "file_name": (str,)}
    images = [image for n, image in enumerate(images) if fits(image, f"images[{n}]", types, problems)]
    types = {"id": ID, "image_id": ID, "caption": TEXT}
    annotations = [it for n, it in enumerate(annotations) if fits(it, f"annotations[{n}]", types, problems)]
    unknown = [f"{it['id']!r} (image {it['image_id']!r})" for it in annotations if it["image_id"] not in listed]
    problems.add("annotation ids given more than once", _repeated(it["id"] for it in annotations))
    problems.add("annotations of an unknown image", unknown)

    from pycocotools.coco import COCO  # slow to import, and no other format needs it

    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = {"images": images, "annotations": annotations}
        coco.createIndex()
    captions = {image["id"]: [it["caption"] for it in coco.imgToAnns[image["id"]]] for image in images}
    return [Entry(image["id"], image["file_name"], captions[image["id"]]) for image in images]


def read_karpathy(images: list[Any], path: Path, split: str | None, restval: bool, problems: Problems) -> list[Entry]:
    """Read one split of those by Karpathy and Fei-Fei (2015) of COCO, Flickr8k and Flickr30k."""
    types: dict[str, tuple[type, ...]] = {"filename": (str,), "split": (str,), "sentences": (list,)}
    images = [image for n, image in enumerate(images) if fits(image, f"images[{n}]", types, problems)]
    sizes = Counter(image["split"] for image in images)
    if split not in sizes:
        there = ", ".join(f"{name} ({sizes[name]:,})" for name in sorted(sizes))
        raise UsageError(f"{path}: {f'has no split {split!r}' if split else 'name a split'}: there are {there}")
    if restval and split != "train":
        raise UsageError(f"{path}: restval can only join train: leave it out with split={split}")
    entries = []
    for image in images:
        if image["split"] not in ((split, "restval") if restval else (split,)):
            continue
        file = f"{image['filepath']}/{image['filename']}" if image.get("filepath") else image["filename"]
        key = "cocoid" if "cocoid" in image else "imgid"
        raw: dict[str, tuple[type, ...]] = {"raw": TEXT}
        said = [it["raw"] for n, it in enumerate(image["sentences"]) if fits(it, f"{file}[{n}]", raw, problems)]
        if fits(image, file, {key: ID}, problems):
            entries.append(Entry(image[key], file, said))
    return entries
