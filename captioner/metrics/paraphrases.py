"""METEOR's paraphrase table: phrases of up to seven words that mean the same.

Denkowski and Lavie 2010 found them in parallel corpora: phrases with a common translation. The
table for English has 5.3 million pairs (60 MB packed). It is read once for each process, as hashes
of its phrases (170 MB), which takes some 10 seconds; looking up a phrase is then a binary search.
"""

from __future__ import annotations

import gzip
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from captioner.errors import UsageError

LONGEST_PHRASE = 7
"""The words of the longest phrase in the table."""

_BLOCK = 1 << 24  # bytes read at a time, so that the text is never in memory as a whole

Hashes = NDArray[np.int64]

PhraseMatches = tuple[int, int, Mapping[str, int]]
"""The start and length of a phrase, and its paraphrases, each with its entries in the table."""


class Paraphrases:
    """The pairs of a table, in both directions, as 64-bit hashes of their phrases.

    Python's hashes differ between processes, so they are not stored. Among the 2.6 million phrases
    of the table, the chance that any two share a hash is below one in a million.
    """

    def __init__(self, phrases: Hashes, paraphrases: Hashes) -> None:
        """Store both sides (P,) of P pairs, whose order means nothing."""
        # METEOR matches a pair whichever caption has which side: each pair is kept twice, (2P,).
        keys = np.concatenate([phrases, paraphrases])
        order = np.argsort(keys)
        self._keys = keys[order]
        self._values = np.concatenate([paraphrases, phrases])[order]

    def of(self, phrase: str) -> Hashes:
        """Return the hashes of the paraphrases of a phrase, the words separated by spaces."""
        key = hash_phrase(phrase)
        start, end = np.searchsorted(self._keys, key), np.searchsorted(self._keys, key, "right")
        return self._values[start:end]

    def known(self, phrases: Sequence[str]) -> list[str]:
        """Return those of the phrases that the table has."""
        keys = np.fromiter(map(hash_phrase, phrases), np.int64, len(phrases))
        places = np.minimum(np.searchsorted(self._keys, keys), len(self._keys) - 1)
        return [phrases[i] for i in np.flatnonzero(self._keys[places] == keys).tolist()]


class PhraseMatcher:
    """Finds the phrases of one set of references that are paraphrases of those of candidates."""

    def __init__(self, path: Path, references: Iterable[Sequence[str]]) -> None:
        """Find the phrases of the references that the table has.

        Args:
            path: the table.
            references: the words of each reference.

        Raises:
            UsageError: the table cannot be read.
        """
        self._table = read_paraphrases(path)
        known = self._table.known(_distinct_phrases(references))
        self._phrases = sorted(known, key=hash_phrase)  # K phrases
        self._hashes = np.fromiter(map(hash_phrase, self._phrases), np.int64, len(known))  # (K,)
        self._found: dict[str, Mapping[str, int]] = {}

    def matches(self, candidates: Sequence[Sequence[str]]) -> list[list[PhraseMatches]]:
        """Return, for each candidate, its phrases that have paraphrases in the references."""
        new = [text for text in _distinct_phrases(candidates) if text not in self._found]
        self._found |= {text: {} for text in new}
        for phrase in self._table.known(new):
            self._found[phrase] = self._find(phrase)
        return [
            [
                (start, length, others)
                for start, length, text in phrases_of(words)
                if (others := self._found[text])
            ]
            for words in candidates
        ]

    def _find(self, phrase: str) -> Mapping[str, int]:
        """Return the paraphrases of a phrase, with 2 for a pair that is in the table twice."""
        others = self._table.of(phrase)  # (M,)
        if not self._phrases:
            return {}
        places = np.minimum(np.searchsorted(self._hashes, others), len(self._phrases) - 1)
        return Counter(self._phrases[place] for place in places[self._hashes[places] == others])


def _distinct_phrases(captions: Iterable[Sequence[str]]) -> list[str]:
    return list(dict.fromkeys(text for words in captions for _, _, text in phrases_of(words)))


def hash_phrase(phrase: str) -> int:
    """Return the hash of a phrase, as it is stored in the table."""
    return hash(phrase.encode())


def phrases_of(words: Sequence[str]) -> Iterator[tuple[int, int, str]]:
    """Yield the start, the length and the text of each phrase of a caption."""
    for start in range(len(words)):
        for length in range(1, min(LONGEST_PHRASE, len(words) - start) + 1):
            yield start, length, " ".join(words[start : start + length])


@cache  # as large as it is, a process reads it once for all sets of captions
def read_paraphrases(path: Path) -> Paraphrases:
    """Return the table in a file of three lines for each pair: probability, phrase, paraphrase.

    Raises:
        UsageError: the file is damaged.
    """
    try:
        with gzip.open(path) as file:
            sides = [_hash_sides(lines) for lines in _triples(file)]
    except (OSError, EOFError, zlib.error) as error:
        raise UsageError(
            f"{path}: METEOR's paraphrase table cannot be read ({error}): install it again: "
            'pip install --force-reinstall "captioner[java]"'
        ) from error
    if not sides:
        raise UsageError(f"{path}: METEOR's paraphrase table is empty: install it again")
    phrases, paraphrases = (np.concatenate(side) for side in zip(*sides, strict=True))
    return Paraphrases(phrases, paraphrases)


def _triples(file: BinaryIO | gzip.GzipFile) -> Iterator[list[bytes]]:
    """Yield the lines of a file in parts that have whole triples of lines."""
    rest: list[bytes] = []
    tail = b""
    while block := file.read(_BLOCK):
        *lines, tail = (tail + block).split(b"\n")
        rest += lines
        whole = len(rest) - len(rest) % 3
        yield rest[:whole]
        rest = rest[whole:]
    if rest or tail:
        raise EOFError("it stops within a pair")


def _hash_sides(lines: Sequence[bytes]) -> tuple[Hashes, Hashes]:
    """Return the hashes of the second and of the third line of each triple."""
    return _hashes(lines[1::3]), _hashes(lines[2::3])


def _hashes(phrases: Iterable[bytes]) -> Hashes:
    return np.fromiter(map(hash, phrases), np.int64)
