"""Rows of bulk results: one for each image, in JSON lines, CSV or parquet.

The columns are `image`, `caption`, `log_prob`, `confidence` and `error`, and `captions`, the best
first, if there are several of each image. A row has an error or a caption; a caption that is below
`min_confidence` is null.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Literal, NamedTuple

from captioner.captions import Caption
from captioner.data.filesystems import import_pyarrow
from captioner.errors import ImageError, UsageError
from captioner.results.files import check_destination, format_result
from captioner.storage import atomic_binary_file, check_writable

RowFormat = Literal["jsonl", "parquet"]

TABLES = (".csv", ".parquet")
"""Endings of files with these rows. A .json or .jsonl file has COCO results instead."""


ROW_GROUP = 100_000
"""Rows of a row group of a parquet file: as many are in memory when it is written."""


class Row(NamedTuple):
    """What is known of an image."""

    image: str
    caption: str | None
    log_prob: float | None  # natural logarithm of the caption's probability
    confidence: float | None
    error: str | None  # why the image cannot be read
    captions: Sequence[str] | None = None  # None: one caption for each image

    @classmethod
    def of(cls, image: str, outcome: Caption | ImageError, *, several: bool) -> Row:
        """Return the row of an image; `several`: with the list of captions."""
        if isinstance(outcome, ImageError):
            return cls(image, None, None, None, outcome.reason, [] if several else None)
        return cls(
            image,
            None if outcome.abstained else outcome.text,
            outcome.log_prob,
            outcome.confidence,
            None,
            outcome.shown if several else None,
        )

    def values(self) -> dict[str, Any]:
        """Return the values by column."""
        values = self._asdict()
        if self.captions is None:
            del values["captions"]
        return values


def format_rows(rows: Sequence[Row], form: RowFormat) -> bytes:
    """Return the content of a file of rows. The same rows give the same bytes."""
    if form == "jsonl":
        # In ASCII: a name that is not UTF-8 is kept, and read back by `json` as Python has it.
        return "".join(json.dumps(row.values()) + "\n" for row in rows).encode("ascii")
    buffer = io.BytesIO()
    with _parquet_writer(buffer, several=rows[0].captions is not None) as write:
        write(rows)
    return buffer.getvalue()


def read_jsonl(file: Iterable[bytes]) -> Iterator[Row]:
    """Yield the rows of the lines that `format_rows` returned."""
    for line in file:
        yield Row(**json.loads(line))


def check_table(path: Path) -> None:
    """Raise an error if `write_table` cannot write a file, or would replace another kind of file.

    Raises:
        UsageError: the file cannot be written, or exists and has other columns than these.
    """
    suffix = path.suffix.lower()
    if suffix not in (*TABLES, ".jsonl"):
        check_destination(path)
        return
    if suffix == ".parquet":
        import_pyarrow("writing a parquet file")
    check_writable(path)
    if not path.is_file() or not path.stat().st_size:
        return
    try:
        columns = _columns(path)
    except (OSError, ValueError) as error:
        raise UsageError(f"{path} cannot be read ({error}): choose another name") from error
    if columns not in (list(Row._fields), list(Row._fields[:-1])):
        raise UsageError(
            f"{path} exists already, and lacks the columns of results: choose another name"
        )


def _columns(path: Path) -> list[str]:
    """Return the names of the columns of a .csv, .jsonl or .parquet file."""
    if path.suffix.lower() == ".parquet":
        import pyarrow.parquet as pq

        return list(pq.read_schema(path).names)
    with path.open("rb") as file:
        line = file.readline().decode("utf-8", "replace")
    if path.suffix.lower() == ".csv":
        return line.strip().split(",")
    values = json.loads(line)
    return list(values) if isinstance(values, dict) else []


def write_table(path: Path, rows: Iterable[Row], *, several: bool, coco: bool = False) -> None:
    """Write rows, one by one, to a .csv, .jsonl or .parquet file.

    Args:
        path: of the file.
        rows: the rows.
        several: whether rows have several captions.
        coco: write COCO results instead, to a .json or a .jsonl file. They leave out images
            without a caption, and an image that was there before.

    Raises:
        CaptionerError: the file cannot be written; an existing one is kept.
    """
    suffix = path.suffix.lower()
    lines = _write_coco_lines if coco else _write_lines
    writers = {".csv": _write_csv, ".parquet": _write_parquet, ".json": _write_coco}
    write = writers.get(suffix, lines)
    with atomic_binary_file(path) as file:
        write(file, rows, several)


def _write_csv(file: BinaryIO, rows: Iterable[Row], several: bool) -> None:
    writer = csv.DictWriter(
        _Encoded(file), Row._fields if several else Row._fields[:-1], lineterminator="\n"
    )
    writer.writeheader()
    for row in rows:
        values = row.values()
        if several:
            values["captions"] = json.dumps(values["captions"])
        writer.writerow(values)


class _Encoded:
    """Writes text to a binary file. A name that is not UTF-8 keeps its bytes."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def write(self, text: str) -> int:
        try:
            return self._file.write(text.encode("utf-8", "surrogateescape"))
        except UnicodeEncodeError:  # half a character, which JSON can hold
            return self._file.write(text.encode("utf-8", "backslashreplace"))


def _write_lines(file: BinaryIO, rows: Iterable[Row], several: bool) -> None:
    for row in rows:
        file.write(format_rows([row], "jsonl"))


def _write_parquet(file: BinaryIO, rows: Iterable[Row], several: bool) -> None:
    with _parquet_writer(file, several=several) as write:
        group: list[Row] = []
        for row in rows:
            group.append(row)
            if len(group) == ROW_GROUP:
                write(group)
                group.clear()
        if group:
            write(group)


@contextmanager
def _parquet_writer(file: BinaryIO, *, several: bool) -> Iterator[Any]:
    """Yield a function that appends rows, as one row group, to a parquet file."""
    pa = import_pyarrow("writing a parquet file")
    import pyarrow.parquet as pq

    text, number = pa.string(), pa.float64()
    types = {"image": text, "caption": text, "log_prob": number, "confidence": number}
    types |= {"error": text} | ({"captions": pa.list_(text)} if several else {})
    schema = pa.schema(list(types.items()))

    def write(rows: Sequence[Row]) -> None:
        values = [row.values() | {"image": parquet_text(row.image)} for row in rows]
        writer.write_table(pa.Table.from_pylist(values, schema))

    with pq.ParquetWriter(file, schema) as writer:
        yield write


def parquet_text(name: str) -> str:
    r"""Return a name as parquet holds it: a byte that is not UTF-8 is written as \udcXX."""
    return name.encode("utf-8", "backslashreplace").decode("utf-8")


def _write_coco(file: BinaryIO, rows: Iterable[Row], several: bool) -> None:
    for number, line in enumerate(_results(rows)):
        file.write((b",\n" if number else b"[") + line)
    file.write(b"]\n" if file.tell() else b"[]\n")


def _write_coco_lines(file: BinaryIO, rows: Iterable[Row], several: bool) -> None:
    for line in _results(rows):
        file.write(line + b"\n")


def _results(rows: Iterable[Row]) -> Iterator[bytes]:
    """Yield the COCO result of each image that has a caption."""
    seen: set[str] = set()
    for row in rows:
        if row.caption is not None and row.image not in seen:
            seen.add(row.image)
            captions = row.captions or row.caption
            yield format_result(row.image, captions).encode("ascii")
