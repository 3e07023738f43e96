"""JSON lines, CSV and Flickr8k's token file → entries: an image goes by its name. Looks at no image."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator
from pathlib import Path

from captioner.data.checks import BrokenJSONError, parse_json, read_text
from captioner.data.problems import Problems
from captioner.data.records import TEXT, Entry, fits
from captioner.errors import UsageError

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
        if not isinstance(captions, list) or not all(isinstance(caption, TEXT) for caption in captions):
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
        raise UsageError(f"split {names}: no such file; here a split is a file that lists the names of its images")
    chosen = dict.fromkeys(line.strip() for line in read_text(names).split("\n") if line.strip())
    known = {entry.file for entry in entries}
    unknown = [repr(name) for name in chosen if name not in known]
    problems.add(f"names in {names} without captions", unknown)
    return [entry for entry in entries if entry.file in chosen]
