"""Lists of images: .txt with one path a line; .csv, .tsv, .jsonl and .parquet with a column.

Lists are read row by row, so that memory does not grow with them. Each row is an image: also one
that is named twice, and one that cannot be read.
"""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from typing import BinaryIO, NamedTuple

from captioner.data.filesystems import RemoteFile, is_remote, open_file
from captioner.data.images import URL, ReadableImage
from captioner.data.lines import first_line
from captioner.data.pixels import UnreadableError
from captioner.data.tables import DELIMITERS, IMAGE_NAMES
from captioner.errors import UsageError, first_few, parameter

SUFFIXES = (".txt", ".csv", ".tsv", ".jsonl", ".parquet")

COLUMNS = (*IMAGE_NAMES, "path", "file", "filepath", "file_path", "image_path", "url")
"""Names of the column of images, the first that a list has; upper and lower case are alike."""


class ImageItem(NamedTuple):
    """An image of a source. It holds no pixels, and no bytes of a file."""

    name: str  # what results call it: the path as given, or "00000.tar/000001.jpg"
    image: ReadableImage


class ListedPath(NamedTuple):
    """A relative path in a list: of the list's folder, or else of the working folder."""

    folder: str
    path: str

    def __fspath__(self) -> str:
        beside = os.path.join(self.folder, self.path)
        return beside if os.path.exists(beside) else self.path


class BrokenRow(NamedTuple):
    """A row of a list that names no image: reading it raises an error with the reason."""

    name: str
    reason: str

    def read(self) -> bytes:
        """Raise the error."""
        raise UnreadableError(self.reason)


def read_list(path: str, column: str | None) -> Iterator[ImageItem]:
    """Yield an image for each row of a list, in order.

    Args:
        path: of the list, local or in a store.
        column: the column of the images; None: the first of `COLUMNS` that there is.

    Raises:
        UsageError: the list cannot be read, or has no such column.
    """
    suffix = os.path.splitext(path)[1].lower()
    if suffix == ".parquet":
        from captioner.data.parquet import read_parquet

        return read_parquet(path, column)
    names = {".txt": _text_rows, ".jsonl": _json_rows}.get(suffix, _csv_rows)
    return (
        ImageItem(row.name, row)
        if isinstance(row, BrokenRow)
        else ImageItem(row, locate(row, path))
        for row in names(path, column)
    )


def locate(name: str, listed_in: str) -> str | ListedPath | RemoteFile:
    """Return what reads an image that a list names. Nothing looks at the disk before."""
    folder = os.path.dirname(listed_in)
    if is_remote(name):
        return RemoteFile(name)
    if is_remote(listed_in) and not os.path.isabs(name) and not URL.match(name):
        return RemoteFile(f"{folder}/{name}")
    if not folder or not name or os.path.isabs(name) or URL.match(name):
        return name
    return ListedPath(folder, name)


def find_column(path: str, names: Sequence[str], column: str | None) -> str:
    """Return the name of the column of images.

    Raises:
        UsageError: there is none.
    """
    if column is not None:
        if column in names:
            return column
        raise UsageError(f"{path} has no column {column}: its columns are {first_few(names)}")
    if not names:
        raise UsageError(f"{path} is empty: give it a header and a path in each row")
    lower = {name.strip().lower(): name for name in reversed(names)}
    found = next((lower[name] for name in COLUMNS if name in lower), None)
    if found is None:
        raise UsageError(
            f"{path} has no column {first_few(COLUMNS)} but {first_few(names)}: "
            f"name one with {parameter('column')}"
        )
    return found


def _open(path: str) -> BinaryIO:
    try:
        return open_file(path)
    except OSError as error:
        raise UsageError(f"{path}: {(error.strerror or str(error)).lower()}") from error


def _lines(path: str) -> Iterator[tuple[int, bytes]]:
    """Yield the number and the content of each line that is not blank."""
    with closing(_open(path)) as file:
        for number, line in enumerate(file, 1):
            content = line.removesuffix(b"\n").removesuffix(b"\r")
            if number == 1:
                content = first_line(content, path)
            if content.strip():
                yield number, content


def _text_rows(path: str, column: str | None) -> Iterator[str | BrokenRow]:
    if column is not None:
        raise UsageError(f"{path}: a .txt list has no columns: leave out {parameter('column')}")
    for _, line in _lines(path):
        yield os.fsdecode(line)


def _json_rows(path: str, column: str | None) -> Iterator[str | BrokenRow]:
    key: str | None = None
    for number, line in _lines(path):
        place = f"{path}:{number}"
        try:
            row = json.loads(line.decode("utf-8", "surrogateescape"))
        except (ValueError, RecursionError):
            yield BrokenRow(place, "the line of the list is not JSON")
            continue
        if isinstance(row, dict):
            if key is None:
                key = find_column(path, list(row), column)
            row = row.get(key)
        if isinstance(row, str):
            yield row
        else:
            yield BrokenRow(place, f"the line of the list has no text in {key or 'it'}")


def _csv_rows(path: str, column: str | None) -> Iterator[str | BrokenRow]:
    with closing(_open(path)) as file:
        header = first_line(file.readline().rstrip(b"\r\n"), path).decode("utf-8", "replace")
        is_tsv = path.lower().endswith(".tsv")
        delimiter, index, columns = _find_in_header(path, header, column, is_tsv=is_tsv)
        text = io.TextIOWrapper(file, "utf-8", "surrogateescape", newline="")
        reader = csv.reader(text, delimiter=delimiter)
        while True:
            try:
                row = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                place = f"{path}:{reader.line_num + 1}"
                yield BrokenRow(place, f"the row of the list is broken: {error}")
                continue
            if not any(cell.strip() for cell in row):
                continue
            if index < len(row):
                yield row[index]
            else:
                reason = f"the row of the list has {len(row)} of {columns} columns"
                yield BrokenRow(f"{path}:{reader.line_num + 1}", reason)


def _find_in_header(
    path: str, header: str, column: str | None, *, is_tsv: bool
) -> tuple[str, int, int]:
    """Return the delimiter of a table, the index of the column of images, and how many there are.

    Raises:
        UsageError: no delimiter gives such a column.
    """
    failure: UsageError | None = None
    for delimiter in ("\t",) if is_tsv else DELIMITERS:
        names = _split(header, delimiter)
        try:
            return delimiter, names.index(find_column(path, names, column)), len(names)
        except UsageError as error:
            failure = failure or error
    assert failure is not None
    raise failure


def _split(header: str, delimiter: str) -> list[str]:
    rows: Iterable[list[str]] = csv.reader([header], delimiter=delimiter, skipinitialspace=True)
    return next(iter(rows), [])
