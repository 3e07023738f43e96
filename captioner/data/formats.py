"""Annotation files: COCO, Karpathy's JSON, JSON lines, CSV, Flickr token files, and their folders.

Readers record what is wrong in `Problems` and continue, so that the user sees all of it at once.
They raise `UsageError` only if they cannot continue. No image file is opened.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from captioner.data.problems import (
    BrokenJSONError,
    Fields,
    Problems,
    is_valid,
    parse_json,
    read_text,
    repeated,
    valid_records,
)
from captioner.data.tables import find_table, first_row, read_table
from captioner.errors import UsageError


class Entry(NamedTuple):
    """An image in an annotation file, with all its captions, empty ones too."""

    image_id: int | str
    file: str
    captions: Sequence[str | None]


class Annotations(NamedTuple):
    """The content of an annotation file, and where its images usually are, likeliest first."""

    entries: list[Entry]
    folders: list[Path]


TEXT = (str, type(None))
ID = (int, str)
REFUSED = "images left without a caption, since theirs are refused"  # a kind of problem
FILES_IN_FOLDERS = ("captions.jsonl", "captions.csv", "captions.txt")
IMAGE_FOLDERS = (
    "images",
    "Images",
    "Flicker8k_Dataset",
    "Flickr8k_Dataset",
    "Flickr8k_Dataset/Flicker8k_Dataset",
    "flickr30k-images",
    "flickr30k_images",
)
FORMATS = """unsupported annotation format. Supported are:
  .json   COCO captions (images and annotations), or Karpathy's dataset_*.json (with sentences)
  .jsonl  on each line {"image": "1.jpg", "captions": ["a dog", ...]}, or one "caption": "a dog"
  .csv    (or .tsv, .txt) with the header image,caption; also with semicolons, tabs or |, and
          with the names that others use: image_name, file_name, filename; comment, text
  .txt    Flickr8k's and Flickr30k's token file: 1.jpg#0<TAB>a dog
  a folder with captions.jsonl, captions.csv or captions.txt"""
JSON_FORMATS = """unsupported annotation format. COCO files are {"images": [...], "annotations": \
[...]}, Karpathy's are {"images": [{"sentences": [...], ...}]}"""


class UnsupportedFormatError(UsageError):
    """A file that is neither JSON, CSV nor a token file, such as one with plain text."""


def read_annotations(
    path: Path, split: str | None, restval: bool, problems: Problems
) -> Annotations:
    """Read a file, or the one in a folder; its suffix and content determine the format.

    Raises:
        UsageError: the file cannot be read, or its format has no such split or no `restval`.
    """
    path = find_file(path)
    text = read_text(path, problems)
    if path.suffix.lower() == ".json":
        return _read_json(text, path, split, restval, problems)
    refuse_options(path, restval=restval)
    entries = _read_lines(text, path, problems)
    if split:
        entries = _select_listed(entries, Path(split), problems)
    return Annotations(entries, [path.parent, *_usual_folders(path)])


def split_names(path: Path) -> list[str] | list[None]:
    """Return the names of the splits in a Karpathy file; [None] for the other formats.

    Raises:
        UsageError: the file cannot be read, or has an unsupported format.
    """
    path = find_file(path)
    if path.suffix.lower() != ".json":
        return [None]
    ignored = Problems(path)  # reading the splits records them again
    images = _parse(read_text(path, ignored), path, ignored)["images"]
    if not _is_karpathy(images):
        return [None]
    names = (image.get("split") for image in images if isinstance(image, dict))
    return sorted({name for name in names if isinstance(name, str)}) or [None]


def _usual_folders(path: Path) -> list[Path]:
    """Return where the images of an annotation file usually are: beside it, or beside its folder.

    The archives of Flickr8k and Flickr30k, from their authors and from Kaggle, have such folders.
    """
    parents = (path.parent, Path(os.path.normpath(path.parent / "..")))
    return [parent / name for parent in parents for name in IMAGE_FOLDERS]


def find_file(path: Path) -> Path:
    """Return the file itself, or the annotation file in a folder."""
    if not os.path.isdir(path):
        return path
    existing = [name for name in FILES_IN_FOLDERS if (path / name).is_file()]
    if len(existing) != 1:
        names = " and ".join(existing) or "none"
        raise UsageError(f"{path}: holds {names} of {', '.join(FILES_IN_FOLDERS)}: name one file")
    return path / existing[0]


def refuse_options(path: Path, **options: object) -> None:
    """Raise an error if an option that the format of a file does not have is set."""
    for option, value in options.items():
        if value:
            raise UsageError(f"{path}: this format has no {option}: leave out {option}={value}")


def _read_json(
    text: str, path: Path, split: str | None, restval: bool, problems: Problems
) -> Annotations:
    content = _parse(text, path, problems)
    images = content["images"]
    parent, grandparent = path.parent, Path(os.path.normpath(path.parent / ".."))
    if _is_karpathy(images):
        entries = _read_karpathy(images, path, split, restval, problems)
        return Annotations(entries, [parent, *_usual_folders(path), grandparent])
    refuse_options(path, split=split, restval=restval)
    entries = _read_coco(images, content["annotations"], problems)
    years = re.findall(r"(?:train|val|test)20\d\d", path.name)  # COCO's image folders
    folders = [folder / year for year in years for folder in (parent, grandparent)]
    return Annotations(entries, [*folders, parent / "images", parent, *_usual_folders(path)])


def _parse(text: str, path: Path, problems: Problems) -> dict[str, list[Any]]:
    """Parse a COCO or Karpathy file, and check that it has its lists."""
    try:
        content = parse_json(text)
    except BrokenJSONError as error:
        problems.raise_errors()  # bytes that are not UTF-8 are the better explanation
        raise UsageError(f"{path}: broken JSON in {error}") from error
    if not isinstance(content, dict):
        raise UsageError(
            f"{path}: line 1 begins a JSON {type(content).__name__}, not an object: {JSON_FORMATS}"
        )
    lists = ["images"] if _is_karpathy(content.get("images")) else ["images", "annotations"]
    if missing := [f"`{name}`" for name in lists if not isinstance(content.get(name), list)]:
        raise UsageError(f"{path}: has no list {' and no list '.join(missing)}: {JSON_FORMATS}")
    return content


def _is_karpathy(images: object) -> bool:
    return isinstance(images, list) and any(
        isinstance(image, dict) and "sentences" in image for image in images
    )


def _read_coco(images: list[Any], annotations: list[Any], problems: Problems) -> list[Entry]:
    """Read with pycocotools, after checks that it lacks (it accepts repeated annotation ids)."""
    listed = {row["id"] for row in images if isinstance(row, dict) and type(row.get("id")) in ID}
    images = valid_records(images, "images", {"id": ID, "file_name": (str,)}, problems)
    fields: Fields = {"id": ID, "image_id": ID, "caption": TEXT}
    refused_ids = _image_ids(annotations)
    annotations = valid_records(annotations, "annotations", fields, problems)
    repeated_ids = repeated(row["id"] for row in annotations)
    problems.add_error("annotation ids given more than once", repeated_ids)
    unknown = (row for row in annotations if row["image_id"] not in listed)
    cases = (f"{row['id']!r} (image {row['image_id']!r})" for row in unknown)
    problems.add_error("annotations of an unknown image", cases)

    from pycocotools.coco import COCO  # slow to import, and no other format needs it

    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = {"images": images, "annotations": annotations}
        coco.createIndex()
    texts = {key: [row["caption"] for row in group] for key, group in coco.imgToAnns.items()}
    without = refused_ids - texts.keys()
    problems.add_warning(REFUSED, (repr(row["id"]) for row in images if row["id"] in without))
    return [
        Entry(row["id"], row["file_name"], texts.get(row["id"], []))
        for row in images
        if row["id"] not in without
    ]


def _image_ids(annotations: list[Any]) -> set[int | str]:
    """Return the ids of the images of annotations, also of those that are not valid."""
    rows = (row for row in annotations if isinstance(row, dict))
    return {row["image_id"] for row in rows if type(row.get("image_id")) in ID}


def _read_karpathy(
    images: list[Any], path: Path, split: str | None, restval: bool, problems: Problems
) -> list[Entry]:
    """Read a split of COCO, Flickr8k or Flickr30k by Karpathy and Fei-Fei (2015)."""
    fields: Fields = {"filename": (str,), "split": (str,), "sentences": (list,)}
    images = valid_records(images, "images", fields, problems)
    sizes = Counter(image["split"] for image in images)
    if split not in sizes:
        available = ", ".join(f"{name} ({sizes[name]:,})" for name in sorted(sizes))
        reason = f"has no split {split!r}" if split else "holds several splits"
        raise UsageError(f"{path}: {reason}: choose one of {available}")
    if restval and split != "train":
        raise UsageError(f"{path}: restval can only join train: leave it out with split={split}")
    chosen = (split, "restval") if restval else (split,)
    entries = []
    for image in (image for image in images if image["split"] in chosen):
        folder = f"{image['filepath']}/" if image.get("filepath") else ""
        file = f"{folder}{image['filename']}"
        key = "cocoid" if "cocoid" in image else "imgid"
        sentences = valid_records(image["sentences"], file, {"raw": TEXT}, problems)
        if not is_valid(image, file, {key: ID}, problems):
            continue
        if image["sentences"] and not sentences:
            problems.add_warning(REFUSED, [repr(image[key])])
            continue
        entries.append(Entry(image[key], file, [sentence["raw"] for sentence in sentences]))
    return entries


TOKEN_LINE = re.compile(r"(.+)#(\d+)\t(.*)")


def _read_lines(text: str, path: Path, problems: Problems) -> list[Entry]:
    """Read JSON lines, CSV or a token file."""
    lines = [(number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
    first = lines[0][1]
    if path.suffix.lower() == ".jsonl":
        return _read_jsonl(lines, problems)
    if table := find_table(text):
        captions_of = read_table(text, table, problems)
        return [Entry(name, name, captions) for name, captions in captions_of.items()]
    if is_token_line(first):
        return _read_token_file(lines, problems)
    raise UnsupportedFormatError(f"{path}: {FORMATS}\nIts first line is {first_row(text)!r}")


def is_token_line(line: str) -> bool:
    """Return whether a line is one of a token file."""
    return TOKEN_LINE.fullmatch(line.rstrip("\r")) is not None


def _read_jsonl(lines: list[tuple[int, str]], problems: Problems) -> list[Entry]:
    """Read an object from each line. Lines with a single `caption` may repeat an image."""
    entries = []
    captions_of: dict[str, list[str | None]] = {}  # images with a single caption on each line
    refused = []
    for number, line in lines:
        try:
            record = parse_json(line, number)
        except BrokenJSONError as error:
            problems.add_error("broken JSON", [error])
            continue
        if not is_valid(record, f"line {number}", {"image": (str,)}, problems):
            continue
        image, single = record["image"], "caption" in record
        captions = [record["caption"]] if single else record.get("captions")
        if not isinstance(captions, list) or not all(isinstance(text, TEXT) for text in captions):
            problems.add_error("wrong or missing captions", [f"line {number}"])
            refused.append(image)
        elif single and image in captions_of:
            captions_of[image] += captions
        else:
            entries.append(Entry(image, image, captions))
            if single:
                captions_of[image] = captions
    accepted = {entry.image_id for entry in entries}
    problems.add_warning(REFUSED, (repr(image) for image in refused if image not in accepted))
    return entries


def _read_token_file(lines: list[tuple[int, str]], problems: Problems) -> list[Entry]:
    captions_of: dict[str, dict[str, str]] = {}
    for number, line in lines:
        match = TOKEN_LINE.fullmatch(line.rstrip("\r"))
        if match is None:
            problems.add_error("lines that are not name#number<TAB>caption", [f"line {number}"])
            continue
        name, index, caption = match.groups()
        captions = captions_of.setdefault(name, {})
        if index in captions:
            case = f"{name!r} #{index} (line {number})"
            problems.add_error("captions given more than once", [case])
        captions[index] = caption
    return [Entry(name, name, list(captions.values())) for name, captions in captions_of.items()]


def _select_listed(entries: list[Entry], names: Path, problems: Problems) -> list[Entry]:
    """Keep the images that a file lists by name, as Flickr8k's split files do."""
    if not names.is_file():
        raise UsageError(f"split {names}: no such file: here a split is a file of image names")
    listed = dict.fromkeys(line.strip() for line in read_text(names).split("\n") if line.strip())
    known = {entry.file for entry in entries}
    unknown = [repr(name) for name in listed if name not in known]
    problems.add_error(f"names in {names} without captions", unknown)
    return [entry for entry in entries if entry.file in listed]
