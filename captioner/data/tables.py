"""Tables of images and captions: CSV as pandas, R, Excel and the authors of Flickr30k write it.

The same parser, Python's `csv`, recognises a table by its header and reads its rows.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

from captioner.data.problems import Problems

DELIMITERS = (",", ";", "\t", "|")
IMAGE_NAMES = ("image", "image_name", "file_name", "filename")
CAPTION_NAMES = ("caption", "comment", "text")
NOT_AVAILABLE = "NA"  # how R writes a missing caption
MAX_HEADER = 100_000  # characters before its end: not all of a large text is copied for it

_SEPARATOR = re.compile(r"\s*\"?sep=(.)\"?[ \t]*\r?\n")  # Excel's first line, as in "sep=;"
_NUMBERED = re.compile(r"\s*(\d+)\s+(\S.*)", re.DOTALL)  # "4   A dog runs", without the "|"


class Table(NamedTuple):
    """How a table is written, and its columns."""

    delimiter: str
    skip_spaces: bool  # after a delimiter: a quote may follow them
    columns: int  # in the header
    image: int
    caption: int


def find_table(text: str) -> Table | None:
    """Return how a text is written as a table, or None if its first row names no such columns."""
    start, delimiters = _without_separator_line(text[:MAX_HEADER])
    for delimiter in delimiters:
        # "image, caption" has spaces after its delimiters. The quotes in Flickr30k's "| " are those
        # of the caption; a program that quotes writes them directly after the "|".
        for skip_spaces in (False, True) if delimiter != "|" else (False,):
            header = _read_header(start, delimiter, skip_spaces=skip_spaces)
            names = [name.strip().lower() for name in header]
            image, caption = (_position(names, known) for known in (IMAGE_NAMES, CAPTION_NAMES))
            if image is not None and caption is not None:
                spaced = skip_spaces or any(name[:1] == " " for name in header)
                skip_spaces = spaced and delimiter != "|"
                return Table(delimiter, skip_spaces, len(header), image, caption)
    return None


def read_table(text: str, table: Table, problems: Problems) -> dict[str, list[str | None]]:
    """Return the captions of each image, in order. Rows that are not readable are recorded."""
    text, _ = _without_separator_line(text)
    rows = [
        (line, _without_empty_end(row, table.columns))
        for line, row in _read_rows(text, table.delimiter, table.skip_spaces, problems)
        if any(cell.strip() for cell in row)
    ][1:]
    image, caption, columns = table.image, table.caption, table.columns
    if _has_row_names(rows, columns):
        image, caption, columns = image + 1, caption + 1, columns + 1
    captions_of: dict[str, list[str | None]] = {}
    for line, row in rows:
        if len(row) == columns - 1:
            row = _with_delimiter(row, table, line, problems)
        if len(row) != columns:
            problems.add_error(f"rows without exactly {columns} columns", [f"line {line}"])
            continue
        if table.delimiter in row[caption].partition("\n")[2]:  # its second line may be a row
            kind = f"captions of several lines with {table.delimiter!r}: is a quote not closed?"
            first_line = line - row[caption].count("\n")
            problems.add_warning(kind, [f"lines {first_line} to {line}"])
        is_missing = row[caption].strip() == NOT_AVAILABLE
        captions_of.setdefault(row[image].strip(), []).append(None if is_missing else row[caption])
    return captions_of


def first_row(text: str) -> str:
    """Return the first line that is not empty, shortened, to be quoted in a message."""
    line = text.lstrip().partition("\n")[0].rstrip("\r")
    return line if len(line) <= 80 else f"{line[:80]}..."


def _without_separator_line(text: str) -> tuple[str, Sequence[str]]:
    """Return the text with an empty line for Excel's "sep=;", and the delimiters to try."""
    match = _SEPARATOR.match(text)
    return (f"\n{text[match.end() :]}", match[1]) if match else (text, DELIMITERS)


def _read_header(text: str, delimiter: str, *, skip_spaces: bool) -> list[str]:
    """Return the first row that is not empty; [] if it is broken."""
    rows = _read_rows(text, delimiter, skip_spaces, problems=None)
    return next((row for _, row in rows if any(cell.strip() for cell in row)), [])


def _position(names: Sequence[str], known: Sequence[str]) -> int | None:
    return next((names.index(name) for name in known if name in names), None)


def _read_rows(
    text: str, delimiter: str, skip_spaces: bool, problems: Problems | None
) -> Iterator[tuple[int, list[str]]]:
    """Yield each row with the number of its last line, and record rows that are not CSV.

    Without `problems`, the first such row ends the table.
    """
    lines = io.StringIO(text, newline="")
    reader = csv.reader(lines, delimiter=delimiter, skipinitialspace=skip_spaces, strict=True)
    while True:
        try:
            for row in reader:
                yield reader.line_num, row
            return
        except csv.Error as error:
            if problems is None:
                return
            problems.add_error("broken CSV", [f"line {reader.line_num}: {error}"])


def _without_empty_end(row: list[str], columns: int) -> list[str]:
    """Return a row without the empty cells beyond the header, which spreadsheets write."""
    while len(row) > columns and not row[-1].strip():
        row = row[:-1]
    return row


def _has_row_names(rows: Sequence[tuple[int, list[str]]], columns: int) -> bool:
    """Return whether each row begins with its number, which the header does not name.

    R's `write.table` writes tables so: the header is one column shorter than the rows.
    """
    if not rows or any(len(row) != columns + 1 or not row[0].isdecimal() for _, row in rows):
        return False
    numbers = [int(row[0]) for _, row in rows if len(row[0]) < 20]
    return len(numbers) == len(rows) and all(one < other for one, other in pairwise(numbers))


def _with_delimiter(row: list[str], table: Table, line: int, problems: Problems) -> list[str]:
    """Return a row of Flickr30k that lacks the "|" between number and caption as it is meant."""
    number = table.caption - 1
    match = _NUMBERED.fullmatch(row[number]) if 0 <= number < len(row) else None
    if table.delimiter != "|" or match is None or number == table.image:
        return row
    problems.add_warning('rows without a "|" after the number, read all the same', [f"line {line}"])
    return [*row[:number], match[1], match[2], *row[number + 1 :]]
