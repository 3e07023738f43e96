"""METEOR's paraphrase table: phrases of up to seven words that mean the same.

Denkowski and Lavie 2010 found them in parallel corpora: phrases with a common translation. The
table for English has 5.3 million pairs (60 MB packed). A process reads it once, in two or three
seconds, and keeps the hashes of its phrases (85 MB). Each set of references selects its pairs.
"""

from __future__ import annotations

import gzip
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from captioner.metrics.meteor_words import check_readable

LONGEST_PHRASE = 7
"""The words of the longest phrase in the table."""

_BLOCK = 1 << 22  # bytes read at a time, so that the text is never in memory as a whole
_LAST_BITS = (1 << 24) - 1
_NUMBER = re.compile(rb"[0-9.eE+-]+")

Hashes = NDArray[np.int64]

PhraseMatches = tuple[int, int, Mapping[str, int]]
"""The start and length of a phrase, and its paraphrases, each with its entries in the table."""


class PhraseMatcher:
    """Finds the phrases of one set of references that are paraphrases of those of candidates.

    Phrases are compared by 64-bit hashes, which differ between processes and so are not stored.
    Among the 2.6 million phrases of the table, the probability of a hash collision is below 1e-6.
    """

    def __init__(self, path: Path, references: Iterable[Sequence[str]]) -> None:
        """Select the pairs of the table with a side among the phrases of the references.

        Args:
            path: the table.
            references: the words of each reference.

        Raises:
            UsageError: the table cannot be read.
        """
        phrases = _distinct_phrases(references)  # K of them
        hashes = _hash_phrases(phrases)  # (K,)
        order = np.argsort(hashes)
        # The greatest number at the end stands for "not found".
        hashes = np.append(hashes[order], np.iinfo(np.int64).max)  # (K + 1,)
        # Of nine in ten phrases of the table, the last bits tell that no reference has them. That
        # is faster than a search in all references.
        possible = np.zeros(_LAST_BITS + 1, bool)
        possible[hashes & _LAST_BITS] = True
        keys, places = [], []  # the hash of a paraphrase, and the place of its phrase in `hashes`
        for one, other in read_paraphrases(path):
            # METEOR matches a pair whichever caption has which side.
            for own, paraphrases in ((one, other), (other, one)):  # (P,)
                rows = np.flatnonzero(possible[own & _LAST_BITS])
                found = np.searchsorted(hashes, own[rows])
                equal = hashes[found] == own[rows]
                keys.append(paraphrases[rows[equal]])
                places.append(found[equal])
        used, entries = np.unique(np.concatenate(places), return_inverse=True)  # entries (E,)
        self._phrases = [phrases[i] for i in order[used].tolist()]
        all_keys = np.concatenate(keys)  # (E,)
        order = np.argsort(all_keys)
        self._keys, self._entries = all_keys[order], entries[order]
        self._found: dict[str, Mapping[str, int]] = {}

    def matches(self, candidates: Sequence[Sequence[str]]) -> list[list[PhraseMatches]]:
        """Return, for each candidate, its phrases that have paraphrases in the references.

        A pair that is in the table twice counts 2.
        """
        new = [text for text in _distinct_phrases(candidates) if text not in self._found]
        hashes = _hash_phrases(new)
        starts = np.searchsorted(self._keys, hashes).tolist()
        ends = np.searchsorted(self._keys, hashes, "right").tolist()
        for text, start, end in zip(new, starts, ends, strict=True):
            found = (self._phrases[i] for i in self._entries[start:end].tolist())
            self._found[text] = Counter(found) if start < end else {}
        return [
            [
                (start, length, others)
                for start, length, text in phrases_of(words)
                if (others := self._found[text])
            ]
            for words in candidates
        ]


def _distinct_phrases(captions: Iterable[Sequence[str]]) -> list[str]:
    return list(dict.fromkeys(text for words in captions for _, _, text in phrases_of(words)))


def phrases_of(words: Sequence[str]) -> Iterator[tuple[int, int, str]]:
    """Yield the start, the length and the text of each phrase of a caption."""
    for start in range(len(words)):
        for length in range(1, min(LONGEST_PHRASE, len(words) - start) + 1):
            yield start, length, " ".join(words[start : start + length])


@cache  # as large as it is, a process reads it once for all sets of captions
def read_paraphrases(path: Path) -> list[tuple[Hashes, Hashes]]:
    """Return the pairs in a file of three lines for each: probability, phrase, paraphrase.

    They are in parts of P pairs: the hashes (P,) of the phrases, and those of the paraphrases.

    Raises:
        UsageError: the file is damaged.
    """
    with check_readable(path), gzip.open(path) as file:
        parts = [(_hash(lines[1::3]), _hash(lines[2::3])) for lines in _triples(file)]
        if not parts:
            raise EOFError("it is empty")
    return parts


def _triples(file: BinaryIO | gzip.GzipFile) -> Iterator[list[bytes]]:
    """Yield the lines of a file in parts that have whole triples of lines."""
    rest = b""
    while block := file.read(_BLOCK):
        lines = (rest + block).split(b"\n")
        whole = (len(lines) - 1) // 3 * 3  # the last line may go on in the next block
        rest = b"\n".join(lines[whole:])
        if whole and not _NUMBER.fullmatch(lines[0]):  # "0.5\r" is no number either
            raise ValueError("its lines are not probability, phrase and paraphrase")
        yield lines[:whole]
    if rest:
        raise EOFError("it stops within a pair")


def _hash_phrases(phrases: Sequence[str]) -> Hashes:
    return _hash([phrase.encode() for phrase in phrases])


def _hash(phrases: Sequence[bytes]) -> Hashes:
    return np.fromiter(map(hash, phrases), np.int64, len(phrases))
