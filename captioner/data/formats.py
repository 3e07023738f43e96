"""Annotation files as they are found in the wild → one kind of list. Looks at no image.

A reader notes what is wrong in `Problems` and goes on, so that all of it can be told at once; it raises `UsageError`
where going on makes no sense. Used through `captioner.data.datasets`.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any, NamedTuple

from captioner.data.checks import BrokenJSONError, parse_json, read_bytes_as_text
from captioner.data.json_formats import read_coco, read_karpathy
from captioner.data.line_formats import listed, read_lines
from captioner.data.problems import Problems
from captioner.data.records import Entry
from captioner.errors import UsageError

UNDERSTOOD = """this is no annotation file that is understood. These are:
  .json   COCO captions (images and annotations), or Karpathy's dataset_*.json (images with sentences)
  .jsonl  an image on each line: {"image": "photos/1.jpg", "captions": ["a dog", ...]}, or "caption": "a dog"
  .csv    (or .txt) with the header image,caption
  .txt    Flickr8k's and Flickr30k's token file: 1.jpg#0<TAB>a dog
  a folder that holds captions.jsonl, captions.csv or captions.txt"""
IN_FOLDERS = ("captions.jsonl", "captions.csv", "captions.txt")
JSON_UNDERSTOOD = """this is no annotation file that is understood; COCO's is {"images": [...], "annotations": [...]}, \
Karpathy's {"images": [{"sentences": [...], ...}]}"""


class Annotations(NamedTuple):
    """What a file says, and the folders in which its images usually are, the likeliest first."""

    entries: list[Entry]
    folders: list[Path]


def read_annotations(path: Path, split: str | None, restval: bool, problems: Problems) -> Annotations:
    """Read a file of any format, or the one in a folder; its suffix and what is in it tell the format."""
    path = _file_of(path)
    text = read_bytes_as_text(path, problems)
    if path.suffix.lower() != ".json":
        _leave_out(path, restval=restval)
        entries = read_lines(text, path, problems)
        if entries is None:
            raise UsageError(f"{path}: {UNDERSTOOD}")
        folders = [path.parent / name for name in (".", "images", "Images", "Flicker8k_Dataset", "flickr30k-images")]
        return Annotations(listed(entries, Path(split), problems) if split else entries, folders)
    content = _parse(text, path, problems)
    images = content["images"]
    if _is_karpathys(images):
        folders = [path.parent, path.parent / "images", _above(path)]
        return Annotations(read_karpathy(images, path, split, restval, problems), folders)
    _leave_out(path, split=split, restval=restval)
    years = re.findall(r"(?:train|val|test)20\d\d", path.name)
    folders = [parent / year for year in years for parent in (path.parent, _above(path))]
    entries = read_coco(images, content["annotations"], problems)
    return Annotations(entries, [*folders, path.parent / "images", path.parent])


def split_names(path: Path) -> list[str] | list[None]:
    """Name the splits that a file itself tells apart, as Karpathy's do; of all others, one without a name.

    Raises:
        UsageError: it cannot be read, or is no annotation file.
    """
    path = _file_of(path)
    if path.suffix.lower() != ".json":
        return [None]
    unheeded = Problems(path)  # reading the splits will find them again
    images = _parse(read_bytes_as_text(path, unheeded), path, unheeded)["images"]
    if not _is_karpathys(images):
        return [None]
    names = (image.get("split") for image in images if isinstance(image, dict))
    return sorted({name for name in names if isinstance(name, str)}) or [None]


def _parse(text: str, path: Path, problems: Problems) -> dict[str, list[Any]]:
    """Parse a JSON file and make sure of its lists, `images` and, unless it is Karpathy's, `annotations`."""
    try:
        content = parse_json(text)
    except BrokenJSONError as error:
        problems.refuse()  # bytes that are not UTF-8 say more
        raise UsageError(f"{path}: broken JSON in {error}") from error
    if not isinstance(content, dict):
        raise UsageError(f"{path}: line 1 begins a JSON {type(content).__name__}, not an object: {JSON_UNDERSTOOD}")
    lists = ["images"] if _is_karpathys(content.get("images")) else ["images", "annotations"]
    if lacking := [name for name in lists if not isinstance(content.get(name), list)]:
        raise UsageError(f"{path}: holds no list {' and no list '.join(lacking)}: {JSON_UNDERSTOOD}")
    return content


def _is_karpathys(images: object) -> bool:
    return isinstance(images, list) and any(isinstance(image, dict) and "sentences" in image for image in images)


def _file_of(path: Path) -> Path:
    """Give the file itself, or the one in a folder."""
    if not os.path.isdir(path):
        return path
    found = [name for name in IN_FOLDERS if (path / name).is_file()]
    if len(found) != 1:
        raise UsageError(f"{path}: holds {' and '.join(found) or 'none'} of {', '.join(IN_FOLDERS)}: name one file")
    return path / found[0]


def _above(path: Path) -> Path:
    """Give the folder above a file's own, also where the path is as short as `captions.json`."""
    return Path(os.path.normpath(path.parent / ".."))


def _leave_out(path: Path, **options: object) -> None:
    for option, value in options.items():
        if value:
            raise UsageError(f"{path}: leave out {option}={value}: an annotation file of this format has no such thing")
