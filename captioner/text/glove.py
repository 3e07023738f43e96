"""Word vectors that others have learnt, out of a text file. Knows neither a model nor the numbers of words."""

from __future__ import annotations

import gzip
import math
import zlib
from collections.abc import Container, Iterator, Sequence
from pathlib import Path

from captioner.errors import UsageError

_EXPECTED = "expected a word and its numbers on each line, as in the glove.6B.100d.txt that is in glove.6B.zip"


def read_glove(path: Path, words: Container[str], *, size: int) -> dict[str, list[float]]:
    """Read the vectors of those of `words` that a file has, each of `size` numbers, to start embeddings from.

    A line is `word v1 v2 ...`, as Pennington et al. 2014, "GloVe: global vectors for word representation", give
    theirs; a first line `count size`, as of word2vec, is passed over. A file whose name ends in .gz is unpacked.

    Raises:
        UsageError: the file cannot be read, its vectors have another size, or it knows none of `words`.
    """
    vectors = {}
    for number, line in _lines(path):
        if number == 1:
            _check_size(path, line, size)
            if _is_header(line):
                continue
        word, *values = line.rsplit(
            " ", size
        )  # from the right: some files have words with a space within
        vector = _numbers(values) if word in words else []
        if len(values) < size or vector is None or (" " in word and _numbers(word.split(" ")[-1:])):
            raise UsageError(
                f"{path}, line {number}: '{line[:40]}' is not a word with {size} numbers; {_EXPECTED}"
            )
        if vector:
            vectors[word] = vector
    if not vectors:
        raise UsageError(
            f"{path} has a vector for none of the words: {_EXPECTED}; words are in lower case"
        )
    return vectors


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Give each line with its number. Bytes are cut into lines first, for a text may hold other ends of lines."""
    number = 0
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            for number, line in enumerate(file, 1):
                yield number, line.decode("utf-8").rstrip(" \r\n")
    except UnicodeDecodeError:
        raise UsageError(f"{path}, line {number}: this is not UTF-8 text; {_EXPECTED}") from None
    except (OSError, EOFError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or error
        raise UsageError(
            f"{path}: cannot read word vectors: {reason}; check training.glove"
        ) from None


def _is_header(line: str) -> bool:
    fields = line.split(" ")
    return len(fields) == 2 and all(field.isdecimal() for field in fields)


def _check_size(path: Path, line: str, size: int) -> None:
    """Tell by the first line whether all that is to come has the wrong size."""
    fields = line.split(" ")
    vector = _numbers(fields[1:])
    found = int(fields[1]) if _is_header(line) else len(vector or ())
    if found and found != size:
        raise UsageError(
            f"{path} has vectors of {found} numbers, not of {size}: set decoder.embed_size={found}"
        )


def _numbers(texts: Sequence[str]) -> list[float] | None:
    """Give finite numbers, or `None` where there is anything else."""
    try:
        numbers = [float(text) for text in texts]
    except ValueError:
        return None
    return numbers if all(map(math.isfinite, numbers)) else None
