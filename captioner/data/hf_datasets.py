"""Data sets of the library `datasets`: of the Hugging Face hub, or in a folder.

The library stores a data set as memory-mapped Arrow files, so any row can be read at any time. A
run reads each image in each epoch, in a new order, and continues in the middle of one: it needs
this, and cannot use a stream.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from captioner.console import console
from captioner.data.datasets import Example, nonempty
from captioner.data.pixels import UnreadableError
from captioner.data.problems import Problems
from captioner.errors import MissingPackageError, UsageError, first_few
from captioner.hub_names import HubName, parse_hub_name, progress_bars

CAPTIONS = ("caption", "captions", "text", "sentences")
"""Columns that hold captions by their name. All of `caption_0`, `caption_1`, ... are used."""

_NUMBERED = re.compile(r"caption_?\d+")
_ROWS = 1000  # whose captions are read at a time


@dataclass(frozen=True)
class RowImage:
    """The image of a row. Its bytes are read when they are needed, in any thread or process."""

    data_set: str  # as the user names it
    split: str
    row: int
    rows: Any = field(repr=False, compare=False)  # a `datasets.Dataset` of one column

    @property
    def name(self) -> str:
        """What messages and reports call it: "flickr8k/train/12", without the folders before."""
        return "/".join(filter(None, (Path(self.data_set).name, self.split, str(self.row))))

    def __str__(self) -> str:
        return self.name

    def read(self) -> bytes:
        """Return the content of the image file.

        Raises:
            UnreadableError: the row has no image, or only the address of one.
            OSError: the file that the row names cannot be read.
        """
        (value,) = self.rows[self.row].values()
        if isinstance(value, dict):  # as the library stores images
            value = value["bytes"] if value["bytes"] is not None else value["path"]
        if isinstance(value, bytes):
            return value
        if not isinstance(value, str):
            raise UnreadableError("the row has no image")
        if not os.path.isfile(value):
            raise UnreadableError(f"the row names {value[:100]}, which is no file here")
        return Path(value).read_bytes()


def load_dataset_examples(
    name: str,
    *,
    split: str | None = None,
    subset: str | None = None,
    image: str = "image",
    captions: Sequence[str] = (),
    problems: Problems,
) -> list[Example]:
    """Return the images of a data set with their captions; the number of the row is the image id.

    Args:
        name: a folder (of `save_to_disk`, of parquet files, or of images with metadata.jsonl), a
            parquet file, or owner/name on the hub; a path that exists wins.
        split: "train", or a part of it as the library writes it: "train[:1000]"; None: the only
            one.
        subset: the configuration, if the data set has several.
        image: the column of images.
        captions: the columns of captions, each a text or a list of texts; none: see `CAPTIONS`.
        problems: gets empty captions and rows without any.

    Raises:
        MissingPackageError: the library is not installed.
        UsageError: there is no such data set, split or column.
    """
    rows = _open(name, split, subset)
    columns = _find_columns(name, rows, image, captions)
    images = _undecoded(name, rows, image)
    examples, empty, bare = [], [], []
    for row, texts in enumerate(_captions(name, rows, columns)):
        kept = nonempty(texts)
        if len(kept) < len(texts):
            empty.append(f"row {row}")
        if not kept:
            bare.append(f"row {row}")
            continue
        path = RowImage(name, split or "", row, images)
        examples.append(Example(row, path, kept))
    problems.add_warning("empty captions, left out", empty)
    problems.add_warning("images without a caption, left out", bare)
    if not examples:
        raise UsageError(f"{name}: holds no image with a caption")
    return examples


def _open(name: str, split: str | None, subset: str | None) -> Any:
    """Return the rows of one split."""
    if find_spec("datasets") is None:
        raise MissingPackageError(
            f"data set {name} needs the package datasets: pip install datasets"
        )
    import datasets

    hub = parse_hub_name(name)
    if hub is None and not os.path.exists(name):
        raise UsageError(
            f"{name}: no such folder or parquet file: check the path, or name a data set of the "
            "hub as owner/name"
        )
    if hub is not None:
        console.print(
            f"captioner: {hub} is a data set of the hub, read or downloaded", markup=False
        )
    try:
        with progress_bars(datasets.utils):
            found = _read(name, hub, split, subset)
    except Exception as error:  # of the library, the network, or any of its readers
        raise UsageError(_reason(error, name, hub, split)) from error
    if not isinstance(found, dict):
        return found
    if len(found) > 1:
        raise UsageError(f"{name} has the splits {first_few([*found])}: set split to one of them")
    return next(iter(found.values()))


def _read(name: str, hub: HubName | None, split: str | None, subset: str | None) -> Any:
    import datasets

    if hub is not None:
        return datasets.load_dataset(hub.name, subset, split=split, revision=hub.revision)
    is_saved = any(
        os.path.isfile(os.path.join(name, each)) for each in ("state.json", "dataset_dict.json")
    )
    if is_saved:
        found = datasets.load_from_disk(name)
        if split is None:
            return found
        if not isinstance(found, dict):
            raise ValueError(f"it is one split without a name: leave out split={split}")
        return found[split]
    if os.path.isfile(name):
        return datasets.load_dataset("parquet", data_files=name, split=split or "train")
    return datasets.load_dataset(name, subset, split=split)


def _reason(error: Exception, name: str, hub: HubName | None, split: str | None) -> str:
    message = " ".join(str(error).split())[:200]
    if isinstance(error, KeyError):
        message = f"it has no split {split!r}"
    if hub is not None and type(error).__name__ == "DatasetNotFoundError":
        return (
            f"{hub.not_found}{' is no' if hub.is_certain else ', and no'} such data set that you "
            "may see on the hub: check the name, or, if it is private, log in with `hf auth login`"
        )
    return f"{name} cannot be read as a data set: {message}: check its name, subset and split"


def _find_columns(name: str, rows: Any, image: str, captions: Sequence[str]) -> list[str]:
    """Return the columns of captions.

    Raises:
        UsageError: a column is missing; the message lists those that there are.
    """
    existing = list(rows.column_names)
    chosen = list(captions) or [each for each in CAPTIONS if each in existing][:1]
    chosen = chosen or sorted(filter(_NUMBERED.fullmatch, existing))
    missing = [each for each in (image, *chosen) if each not in existing]
    if missing or not chosen:
        wanted = f"no column {missing[0]}" if missing else "no column of captions that is known"
        setting = "image" if missing[:1] == [image] else "caption"
        raise UsageError(
            f"{name} has {wanted}: its columns are {first_few(existing)}: set {setting} to one of "
            "them"
        )
    return chosen


def _undecoded(name: str, rows: Any, image: str) -> Any:
    """Return the column of images, whose values stay bytes or the path of a file."""
    import datasets

    feature = rows.features[image]
    if isinstance(feature, datasets.Image):
        rows = rows.cast_column(image, datasets.Image(decode=False))
    elif getattr(feature, "dtype", None) not in ("binary", "large_binary", "string"):
        raise UsageError(
            f"{name}: the column {image} holds {type(feature).__name__} "
            f"({getattr(feature, 'dtype', '')}), and no images: name another one in image"
        )
    return rows.select_columns([image])


def _captions(name: str, rows: Any, columns: Sequence[str]) -> Iterator[list[str | None]]:
    """Yield the captions of each row. Images are not read."""
    for batch in rows.select_columns([*columns]).iter(_ROWS):
        for values in zip(*(batch[column] for column in columns), strict=True):
            texts: list[str | None] = []
            for value in values:
                texts += value if isinstance(value, list) else [value]
            if not all(isinstance(text, str | None) for text in texts):
                raise UsageError(
                    f"{name}: the captions in {first_few(columns)} are no texts, such as "
                    f"{str(values[0])[:60]}: name another column in caption"
                )
            yield texts
