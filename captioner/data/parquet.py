"""Columns of images in parquet files: paths, bytes, or both, as `datasets` writes them.

The rows of a parquet file are in row groups, and a row group is read at once.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from threading import Lock
from typing import Any, NamedTuple

from captioner.data.filesystems import RemoteFile, import_pyarrow, open_file, read_bytes
from captioner.data.lists import BrokenRow, ImageItem, find_column, locate
from captioner.data.pixels import UnreadableError
from captioner.errors import UsageError

ROWS = 8192  # of paths that are read at once
ROW_GROUPS = 2  # that are kept: images are read in order, a few ahead


def read_parquet(path: str, column: str | None) -> Iterator[ImageItem]:
    """Yield an image for each row of a parquet file, in order: see `captioner.data.lists`."""
    import_pyarrow(f"{path}, a parquet file,")
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(open_file(path)) as file:
            schema = file.schema_arrow
            name = find_column(path, schema.names, column)
            kind = schema.field(name).type
            fields = [field.name for field in kind] if pa.types.is_struct(kind) else []
            if pa.types.is_string(kind) or pa.types.is_large_string(kind):
                yield from _paths(file, path, name)
            elif pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or "bytes" in fields:
                yield from _cells(file, path, name, has_paths="path" in fields)
            else:
                raise UsageError(
                    f"{path}: the column {name} is {kind}: name one of paths or of images"
                )
    except (OSError, pa.ArrowException) as error:
        raise UsageError(f"{path}: {' '.join(str(error).split())}") from error


def _paths(file: Any, path: str, column: str) -> Iterator[ImageItem]:
    row = 0
    for batch in file.iter_batches(ROWS, columns=[column]):
        for value in batch.column(0).to_pylist():
            row += 1
            if value is None:
                broken = BrokenRow(f"{path}:{row}", "the row of the list has no image")
                yield ImageItem(broken.name, broken)
            else:
                yield ImageItem(value, locate(value, path))


def _cells(file: Any, path: str, column: str, *, has_paths: bool) -> Iterator[ImageItem]:
    """Yield the images of a column of bytes. The bytes are not read; their paths are, as names."""
    images = RowGroups(path, column)
    row = 0
    for group in range(file.num_row_groups):
        names: list[str | None] = [None] * file.metadata.row_group(group).num_rows
        if has_paths:
            table = file.read_row_group(group, columns=[f"{column}.path"])
            names = [value and value["path"] for value in table.column(0).to_pylist()]
        for index, name in enumerate(names):
            row += 1
            name = name or f"{path}:{row}"
            yield ImageItem(name, Cell(images, group, index, name))


class RowGroups:
    """Reads the cells of a column, and keeps the row groups that were read last.

    It may be used in several threads, and can be pickled.
    """

    def __init__(self, path: str, column: str) -> None:
        self.path, self.column = path, column
        self._lock = Lock()
        self._kept: dict[int, Any] = {}  # row group -> its column

    def __reduce__(self) -> tuple[type[RowGroups], tuple[str, str]]:
        return RowGroups, (self.path, self.column)

    def cell(self, group: int, row: int) -> Any:
        """Return the value of a cell: bytes, or a dict with `bytes` and `path`."""
        import pyarrow.parquet as pq

        with self._lock:
            if group not in self._kept:
                with pq.ParquetFile(open_file(self.path)) as file:
                    column = file.read_row_group(group, columns=[self.column]).column(0)
                while len(self._kept) >= ROW_GROUPS:
                    del self._kept[next(iter(self._kept))]
                self._kept[group] = column
            return self._kept[group][row].as_py()


class Cell(NamedTuple):
    """An image in a parquet file. It holds no bytes until it is read."""

    images: RowGroups
    group: int
    row: int
    name: str

    def read(self) -> bytes:
        """Return the bytes of the image.

        Raises:
            UnreadableError: the cell is null, or its path cannot be read.
        """
        value = self.images.cell(self.group, self.row)
        if isinstance(value, dict):
            path, value = value.get("path"), value.get("bytes")
            if value is None and path:
                value = _read(path, self.images.path)
        if not isinstance(value, bytes):
            raise UnreadableError("the row of the list has no image")
        return value


def _read(path: str, listed_in: str) -> bytes:
    """Return the content of a file that a row names instead of holding it."""
    image = locate(path, listed_in)
    return read_bytes(image.name if isinstance(image, RemoteFile) else os.fsdecode(image))
