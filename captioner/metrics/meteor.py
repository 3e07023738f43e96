"""METEOR of a set of captions without Java: METEOR 1.5 for English (Denkowski and Lavie 2014), less its paraphrases.

Words in, fractions out. Words match where they are equal, have the same stem, or share a meaning in WordNet, where
nltk's data for it is installed. On COCO's captions that is 0.012 to 0.0135 below Java's METEOR without WordNet, and
about 0.005 with it (`tests/metrics/test_on_coco.py`): compare only scores whose signatures name the same stages.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from captioner.metrics.alignment import align, count_chunks
from captioner.metrics.lexicon import EXACT, FUNCTION_WORDS, Lexicon

METEOR_VERSION = "1.5-1"

# The parameters of METEOR 1.5 for English, tuned on how people rank translations.
ALPHA = 0.85  # weight of recall against precision
BETA, GAMMA = 0.2, 0.6  # shape and size of the penalty for many chunks
DELTA = 0.75  # weight of a content word; a function word has the rest

Number = TypeVar("Number", float, NDArray[np.float64])


class Meteor:
    """Scores candidates against one set of references, whose vocabulary is looked up once."""

    def __init__(self, references: Sequence[Sequence[Sequence[str]]]) -> None:
        """Take the tokenised references of each image: images x references x words. Each image has at least one."""
        self._lexicon = Lexicon(word for captions in references for words in captions for word in words)
        self._images = references

    @property
    def stages(self) -> str:
        """How words are matched, for the signature: "exact+stem", or "exact+stem+wordnet"."""
        return self._lexicon.stages

    def score(self, candidates: Sequence[Sequence[str]]) -> tuple[float, list[float]]:
        """Give the METEOR of the set (0 to 1) and that of each image, for one tokenised caption per image, in order.

        The first is not the mean of the others: as in METEOR itself, it is made of sums over all images.
        """
        rows = self.statistics(candidates)
        sums = [sum(column) for column in zip(*rows, strict=True)] or [0.0] * 6
        return meteor(sums), [meteor(row) for row in rows]

    def statistics(self, candidates: Sequence[Sequence[str]]) -> list[tuple[float, ...]]:
        """Measure, for each image, what `meteor` makes a score of, against the reference that scores best.

        A row holds six numbers: the weight of the matches in the candidate and in the reference, the weight of all
        words in the candidate and in the reference, the number of matches, and of chunks.
        """
        rows = []
        for words, references in zip(candidates, self._images, strict=True):
            candidate = _Candidate(words, self._lexicon)
            # References are indexed here and not once for all: 25,000 dicts cost the garbage collector more than that.
            rows.append(max((_compare(candidate, _Reference(caption)) for caption in references), key=meteor))
        return rows


def meteor(sums: Sequence[Number]) -> Number:
    """Give METEOR (0 to 1) from the sums of the six columns of `Meteor.statistics`.

    Each sum may be an array, with a place for each of many samples of images: so is the score then.
    """
    mine, its, length, reference_length, matches, chunks = sums
    # The harmonic mean of precision mine / length and recall its / reference_length, safe where nothing matches.
    weighed = ALPHA * mine * reference_length + (1 - ALPHA) * its * length
    mean = mine * its / np.maximum(weighed, 1e-9)
    penalty = GAMMA * (chunks / np.maximum(matches, 1)) ** BETA
    score: Number = mean * (1 - penalty)
    return score


class _Candidate:
    """A caption that is scored: what each of its words may match."""

    def __init__(self, words: Sequence[str], lexicon: Lexicon) -> None:
        self.weights = [_weight(word) for word in words]
        self.weight = sum(self.weights)
        self.matches = [lexicon.matches(word) for word in words]


class _Reference:
    """A caption that others are scored against: where each of its words is."""

    def __init__(self, words: Sequence[str]) -> None:
        self.words = words
        self.weight = sum(map(_weight, words))
        self.places: dict[str, tuple[int, ...]] = {}
        for place, word in enumerate(words):
            self.places[word] = (*self.places.get(word, ()), place)


def _compare(candidate: _Candidate, reference: _Reference) -> tuple[float, ...]:
    """Give the row of one candidate and one reference."""
    worth: dict[tuple[int, int], float] = {}  # of each pair of places that may be aligned
    for mine, matches in enumerate(candidate.matches):
        for word in [word for word in matches if word in reference.places]:
            for its in reference.places[word]:
                worth[mine, its] = matches[word]
    alignment = align({pair: value == EXACT for pair, value in worth.items()})
    chunks = count_chunks(alignment)
    if chunks == 1 and len(alignment) == len(candidate.weights) == len(reference.words):
        chunks = 0  # nothing is missing or moved: METEOR has no penalty for that
    mine_matched = its_matched = 0.0
    for mine, its in alignment.items():
        mine_matched += worth[mine, its] * candidate.weights[mine]
        its_matched += worth[mine, its] * _weight(reference.words[its])
    return mine_matched, its_matched, candidate.weight, reference.weight, len(alignment), chunks


def _weight(word: str) -> float:
    return 1 - DELTA if word in FUNCTION_WORDS else DELTA
