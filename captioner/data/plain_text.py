"""Captions without images: a caption on each line of a text file, or annotations of any format."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from captioner.data.formats import (
    find_file,
    is_token_line,
    read_annotations,
    split_names,
)
from captioner.data.problems import Problems, read_text
from captioner.data.tables import find_table
from captioner.errors import UsageError


class TextExample(NamedTuple):
    """A caption without an image."""

    place: str  # in its file: "line 3", or an image id
    caption: str

    @property
    def captions(self) -> tuple[str, ...]:
        """The caption, as the captions of an `Example`."""
        return (self.caption,)


def load_text(path: Path, problems: Problems) -> list[TextExample]:
    """Load captions without images; errors are recorded in `problems`, and empty lines left out.

    Args:
        path: a .txt file with one caption on each line, or annotations of any format.
        problems: of the file.

    Raises:
        UsageError: the file cannot be read, or holds no caption.
    """
    pairs = _read_captions(path, problems)
    empty = [place for place, caption in pairs if not caption or caption.isspace()]
    problems.add_warning("empty captions, left out", empty)
    examples = [
        TextExample(place, caption.strip())
        for place, caption in pairs
        if caption and not caption.isspace()
    ]
    if not examples and not problems.errors:
        raise UsageError(f"{path}: holds no caption")
    return examples


def is_plain_text(path: Path) -> bool:
    """Return whether a file has one caption on each line: a .txt file that names no images.

    Raises:
        UsageError: the file cannot be read.
    """
    path = find_file(path)
    is_candidate = path.suffix.lower() == ".txt"
    return is_candidate and _is_plain_text(path, read_text(path, Problems(path)))


def _is_plain_text(path: Path, text: str) -> bool:
    first_line = text.lstrip().partition("\n")[0]
    return path.suffix.lower() == ".txt" and not (find_table(text) or is_token_line(first_line))


def _read_captions(path: Path, problems: Problems) -> list[tuple[str, str | None]]:
    """Return pairs of a place in the file, which is a line or an image id, and a caption.

    Raises:
        UsageError: the file cannot be read, or has splits.
    """
    path = find_file(path)
    text = read_text(path, problems)
    if _is_plain_text(path, text):
        lines = text.rstrip().split("\n")
        return [(f"line {number}", line.strip()) for number, line in enumerate(lines, 1)]
    if split_names(path) != [None]:
        raise UsageError(f"{path}: has splits: write the captions of one to a text file")
    entries = read_annotations(path, None, False, problems).entries
    return [(repr(entry.image_id), caption) for entry in entries for caption in entry.captions]
