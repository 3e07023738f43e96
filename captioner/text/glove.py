"""Read pretrained word vectors from a text file, as GloVe and word2vec write it."""

from __future__ import annotations

import gzip
import math
import zlib
from collections.abc import Container, Iterator, Sequence
from pathlib import Path

from captioner.errors import UsageError

_EXPECTED = (
    "expected a word and its numbers on each line, as in glove.6B.100d.txt, a part of glove.6B.zip"
)


def read_glove(path: Path, words: Container[str], *, size: int) -> dict[str, list[float]]:
    """Return the vectors of those `words` that the file has, `size` numbers each.

    A line is `word v1 v2 ...`, as in the files of Pennington et al. 2014, "GloVe: global vectors
    for word representation". A first line `count size`, as in those of word2vec, is skipped. A
    file whose name ends in .gz is decompressed.

    Raises:
        UsageError: the file cannot be read, its vectors have another size, or it has none of
            `words`.
    """
    vectors = {}
    for number, line in _lines(path):
        if number == 1:
            _check_size(path, line, size)
            if _is_header(line):
                continue
        # Split from the right: some files have words that contain a space.
        word, *values = line.rsplit(" ", size)
        vector = _numbers(values) if word in words else []
        too_many_numbers = " " in word and _numbers(word.split(" ")[-1:])
        if len(values) < size or vector is None or too_many_numbers:
            raise UsageError(
                f"{path}, line {number}: '{line[:40]}' is not a word with {size} numbers: "
                f"{_EXPECTED}"
            )
        if vector:
            vectors[word] = vector
    if not vectors:
        raise UsageError(
            f"{path} has a vector for none of the words: {_EXPECTED}, with words in lower case"
        )
    return vectors


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield each line with its number.

    Lines are split as bytes: words can contain characters that end a line of text in Unicode.
    """
    number = 0
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            for number, line in enumerate(file, 1):
                yield number, line.decode("utf-8").rstrip(" \r\n")
    except UnicodeDecodeError:
        raise UsageError(f"{path}, line {number}: this is not UTF-8 text: {_EXPECTED}") from None
    except (OSError, EOFError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or error
        raise UsageError(
            f"{path}: cannot read word vectors: {reason}; check the path in training.glove"
        ) from None


def _is_header(line: str) -> bool:
    fields = line.split(" ")
    return len(fields) == 2 and all(field.isdecimal() for field in fields)


def _check_size(path: Path, line: str, size: int) -> None:
    """Raise a UsageError if the first line shows that the vectors have another size."""
    fields = line.split(" ")
    vector = _numbers(fields[1:])
    actual = int(fields[1]) if _is_header(line) else len(vector or ())
    if actual and actual != size:
        raise UsageError(
            f"{path} has vectors of {actual} numbers, not of {size}: "
            f"set decoder.embed_size={actual}"
        )


def _numbers(texts: Sequence[str]) -> list[float] | None:
    """Return the numbers in texts, or None if one is not a finite number."""
    try:
        numbers = [float(text) for text in texts]
    except ValueError:
        return None
    return numbers if all(map(math.isfinite, numbers)) else None
