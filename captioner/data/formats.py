"""Annotation files as they are found in the wild → one kind of list. Looks at no image.

A reader notes what is wrong in `Problems` and goes on, so that all of it can be told at once; it raises `UsageError`
where going on makes no sense. Used through `captioner.data.datasets`.
"""

from __future__ import annotations

import contextlib
import csv
import io
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from captioner.data.problems import (
    BrokenJSONError,
    Problems,
    parse_json,
    read_bytes_as_text,
    read_text,
)
from captioner.errors import UsageError

TEXT = (str, type(None))
ID = (int, str)


class Entry(NamedTuple):
    """An image as its annotation file names it, with all its captions, empty ones too."""

    image_id: int | str
    file: str
    captions: Sequence[str | None]


def fits(record: Any, place: str, types: dict[str, tuple[type, ...]], problems: Problems) -> bool:
    """Note fields that are missing or of another type; exactly, since Python takes True for a number."""
    if not isinstance(record, dict):
        problems.add("not a JSON object", [f"{place} is {record!r:.50}"])
        return False
    wrong = [
        field for field in types if field not in record or type(record[field]) not in types[field]
    ]
    for field in wrong:
        found = f"is {record[field]!r:.50}" if field in record else "is missing"
        problems.add(f"wrong `{field}`", [f"{place}.{field} {found}"])
    return not wrong


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


def read_annotations(
    path: Path, split: str | None, restval: bool, problems: Problems
) -> Annotations:
    """Read a file of any format, or the one in a folder; its suffix and what is in it tell the format."""
    path = _file_of(path)
    text = read_bytes_as_text(path, problems)
    if path.suffix.lower() != ".json":
        _leave_out(path, restval=restval)
        entries = read_lines(text, path, problems)
        if entries is None:
            raise UsageError(f"{path}: {UNDERSTOOD}")
        folders = [
            path.parent / name
            for name in (".", "images", "Images", "Flicker8k_Dataset", "flickr30k-images")
        ]
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
        raise UsageError(
            f"{path}: line 1 begins a JSON {type(content).__name__}, not an object: {JSON_UNDERSTOOD}"
        )
    lists = ["images"] if _is_karpathys(content.get("images")) else ["images", "annotations"]
    if lacking := [name for name in lists if not isinstance(content.get(name), list)]:
        raise UsageError(
            f"{path}: holds no list {' and no list '.join(lacking)}: {JSON_UNDERSTOOD}"
        )
    return content


def _is_karpathys(images: object) -> bool:
    return isinstance(images, list) and any(
        isinstance(image, dict) and "sentences" in image for image in images
    )


def _file_of(path: Path) -> Path:
    """Give the file itself, or the one in a folder."""
    if not os.path.isdir(path):
        return path
    found = [name for name in IN_FOLDERS if (path / name).is_file()]
    if len(found) != 1:
        raise UsageError(
            f"{path}: holds {' and '.join(found) or 'none'} of {', '.join(IN_FOLDERS)}: name one file"
        )
    return path / found[0]


def _above(path: Path) -> Path:
    """Give the folder above a file's own, also where the path is as short as `captions.json`."""
    return Path(os.path.normpath(path.parent / ".."))


def _leave_out(path: Path, **options: object) -> None:
    for option, value in options.items():
        if value:
            raise UsageError(
                f"{path}: leave out {option}={value}: an annotation file of this format has no such thing"
            )


def _repeated(things: Iterable[object]) -> list[str]:
    return [repr(thing) for thing, count in Counter(things).items() if count > 1]


def read_coco(images: list[Any], annotations: list[Any], problems: Problems) -> list[Entry]:
    """Validate what pycocotools takes silently (two annotations of one id give a wrong caption), then let it read."""
    listed = {
        image["id"] for image in images if isinstance(image, dict) and type(image.get("id")) in ID
    }
    types: dict[str, tuple[type, ...]] = {"id": ID, "file_name": (str,)}
    images = [
        image for n, image in enumerate(images) if fits(image, f"images[{n}]", types, problems)
    ]
    types = {"id": ID, "image_id": ID, "caption": TEXT}
    annotations = [
        it for n, it in enumerate(annotations) if fits(it, f"annotations[{n}]", types, problems)
    ]
    unknown = [
        f"{it['id']!r} (image {it['image_id']!r})"
        for it in annotations
        if it["image_id"] not in listed
    ]
    problems.add("annotation ids given more than once", _repeated(it["id"] for it in annotations))
    problems.add("annotations of an unknown image", unknown)

    from pycocotools.coco import COCO  # slow to import, and no other format needs it

    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = {"images": images, "annotations": annotations}
        coco.createIndex()
    captions = {
        image["id"]: [it["caption"] for it in coco.imgToAnns[image["id"]]] for image in images
    }
    return [Entry(image["id"], image["file_name"], captions[image["id"]]) for image in images]


def read_karpathy(
    images: list[Any], path: Path, split: str | None, restval: bool, problems: Problems
) -> list[Entry]:
    """Read one split of those by Karpathy and Fei-Fei (2015) of COCO, Flickr8k and Flickr30k."""
    types: dict[str, tuple[type, ...]] = {"filename": (str,), "split": (str,), "sentences": (list,)}
    images = [
        image for n, image in enumerate(images) if fits(image, f"images[{n}]", types, problems)
    ]
    sizes = Counter(image["split"] for image in images)
    if split not in sizes:
        there = ", ".join(f"{name} ({sizes[name]:,})" for name in sorted(sizes))
        raise UsageError(
            f"{path}: {f'has no split {split!r}' if split else 'name a split'}: there are {there}"
        )
    if restval and split != "train":
        raise UsageError(f"{path}: restval can only join train: leave it out with split={split}")
    entries = []
    for image in images:
        if image["split"] not in ((split, "restval") if restval else (split,)):
            continue
        file = (
            f"{image['filepath']}/{image['filename']}"
            if image.get("filepath")
            else image["filename"]
        )
        key = "cocoid" if "cocoid" in image else "imgid"
        raw: dict[str, tuple[type, ...]] = {"raw": TEXT}
        said = [
            it["raw"]
            for n, it in enumerate(image["sentences"])
            if fits(it, f"{file}[{n}]", raw, problems)
        ]
        if fits(image, file, {key: ID}, problems):
            entries.append(Entry(image[key], file, said))
    return entries


TOKEN_LINE = re.compile(r"(.+)#(\d+)\t(.*)")


def read_lines(text: str, path: Path, problems: Problems) -> list[Entry] | None:
    """Read any of the three; None if it is something else."""
    lines = [(number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
    first = lines[0][1]
    if path.suffix.lower() == ".jsonl":
        return _read_jsonl(lines, problems)
    if {"image", "caption"} <= {name.strip().lower() for name in first.split(",")}:
        return _read_csv(text, problems)
    if TOKEN_LINE.fullmatch(first.rstrip("\r")):
        return _read_token(lines, problems)
    return None


def _read_jsonl(lines: list[tuple[int, str]], problems: Problems) -> list[Entry]:
    """Read an object from each line. Lines with a single `caption` may share an image."""
    entries = []
    shared: dict[str, list[str | None]] = {}
    for number, line in lines:
        try:
            record = parse_json(line, number)
        except BrokenJSONError as error:
            problems.add("broken JSON", [error])
            continue
        if not fits(record, f"line {number}", {"image": (str,)}, problems):
            continue
        image, single = record["image"], "caption" in record
        captions = [record["caption"]] if single else record.get("captions")
        if not isinstance(captions, list) or not all(
            isinstance(caption, TEXT) for caption in captions
        ):
            problems.add("wrong or missing captions", [f"line {number}"])
        elif single and image in shared:
            shared[image] += captions
        else:
            entries.append(Entry(image, image, captions))
            if single:
                shared[image] = captions
    return entries


def _read_csv(text: str, problems: Problems) -> list[Entry]:
    """Read the columns image and caption. What holds commas is quoted, as spreadsheets and Kaggle's Flickr8k do it."""
    grouped: dict[str, list[str | None]] = {}
    rows = _rows(text.lstrip(), problems)
    _, header = next(rows, (1, []))
    names = [name.strip().lower() for name in header]
    if not {"image", "caption"} <= set(names):
        if header:  # else a quote in it never closed, which is noted
            problems.add("no columns image and caption outside of quotes", ["line 1"])
        return []
    image, caption = names.index("image"), names.index("caption")
    for line, row in rows:
        if len(row) == len(header):
            grouped.setdefault(row[image].strip(), []).append(row[caption])
        elif row:
            problems.add(f"rows without exactly {len(header)} columns", [f"line {line}"])
    return [Entry(name, name, captions) for name, captions in grouped.items()]


def _rows(text: str, problems: Problems) -> Iterator[tuple[int, list[str]]]:
    """Give each row with the line it ends in, noting those that break CSV's rules."""
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    while True:
        try:
            row = next(reader)
        except csv.Error as error:
            problems.add("broken CSV", [f"line {reader.line_num}: {error}"])
        except StopIteration:
            return
        else:
            yield reader.line_num, row


def _read_token(lines: list[tuple[int, str]], problems: Problems) -> list[Entry]:
    grouped: dict[str, dict[str, str]] = {}
    for number, line in lines:
        match = TOKEN_LINE.fullmatch(line.rstrip("\r"))
        if match is None:
            problems.add("lines that are not name#number<TAB>caption", [f"line {number}"])
            continue
        name, which, caption = match.groups()
        captions = grouped.setdefault(name, {})
        if which in captions:
            problems.add("captions given more than once", [f"{name!r} #{which} (line {number})"])
        captions[which] = caption
    return [Entry(name, name, list(captions.values())) for name, captions in grouped.items()]


def listed(entries: list[Entry], names: Path, problems: Problems) -> list[Entry]:
    """Keep the images that a list file names, as Flickr8k's splits do."""
    if not names.is_file():
        raise UsageError(
            f"split {names}: no such file; here a split is a file that lists the names of its images"
        )
    chosen = dict.fromkeys(line.strip() for line in read_text(names).split("\n") if line.strip())
    known = {entry.file for entry in entries}
    unknown = [repr(name) for name in chosen if name not in known]
    problems.add(f"names in {names} without captions", unknown)
    return [entry for entry in entries if entry.file in chosen]
