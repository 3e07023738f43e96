"""METEOR of a set of captions without Java: METEOR 1.5 for English (Denkowski and Lavie 2014), less its paraphrases.

Words in, fractions out. Words match where they are equal, have the same stem, or share a meaning in WordNet, where
nltk's data for it is installed. On COCO's captions that is 0.012 to 0.0135 below Java's METEOR without WordNet, and
about 0.005 with it (`tests/metrics/test_on_coco.py`): compare only scores whose signatures name the same stages.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from heapq import nlargest
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

EXACT, STEM, SYNONYM = 1.0, 0.6, 0.8
"""What a match of each stage is worth (METEOR 1.5 for English). Equal stems come before synonyms."""

_FREQUENT = """
    1 2 a about after all also an and any are as at back be because been but by could do first for from get go good had
    has have he her him his how i if in into is it its just know like make me more most much my new no not now of on
    one only or other our out over people said see she so some than that the their them then there these they think
    this time to two up us very want was way we well were what when where which who will with would you your
    'd 'll 'm 're 's 've can n't
"""
FUNCTION_WORDS = frozenset(_FREQUENT.split())
"""The English words above one in a thousand in wordfreq 3.1 (Speer 2022), and what contractions among them end with.

METEOR 1.5 has the same criterion (Denkowski and Lavie 2011) and another corpus: its list has punctuation, "last",
"year" and "years" besides, and lacks some thirty words of everyday talk, like "my", "good", "back" and "very"."""


class Lexicon:
    """Finds, for any word, the words of one vocabulary that match it; looks every word up once."""

    def __init__(self, vocabulary: Iterable[str]) -> None:
        """Take the words of the references. WordNet is used where nltk's data is installed, and `stages` says so."""
        from nltk.corpus import wordnet  # late: nltk takes a second to import
        from nltk.stem.snowball import EnglishStemmer

        self._stem = cache(EnglishStemmer().stem)  # Porter's second, as METEOR 1.5 has it
        self._wordnet = wordnet
        try:
            wordnet.ensure_loaded()
            self.stages = "exact+stem+wordnet"
        except LookupError:
            self.stages = "exact+stem"
        self._words_of: dict[str, list[str]] = {}  # of each stem and each meaning
        for word in dict.fromkeys(vocabulary):
            for form in self._forms(word):
                self._words_of.setdefault(form, []).append(word)
        self.matches = cache(self._matches)

    def _matches(self, word: str) -> dict[str, float]:
        """Give the words of the vocabulary that match a word, and what each match is worth."""
        others = (other for form in self._forms(word) for other in self._words_of.get(form, ()))
        return {other: self._worth(word, other) for other in others}

    def _worth(self, word: str, other: str) -> float:
        if word == other:
            return EXACT
        return STEM if self._stem(word) == self._stem(other) else SYNONYM

    def _forms(self, word: str) -> list[str]:
        """Give the stem and the names of the meanings, such as "dog.n.01": words that share one match."""
        meanings = self._wordnet.synsets(word) if self.stages.endswith("wordnet") else ()
        return [self._stem(word), *(meaning.name() for meaning in meanings)]


BEAM = 40
"""How many hypotheses the search keeps, as in METEOR 1.5: all of them unless a caption repeats itself a lot."""

Pair = tuple[int, int]  # places in the candidate and in the reference
_NOWHERE = (-2, -2)
_Hypothesis = tuple[
    int, int, int, tuple[Pair, ...]
]  # equal words, pairs, neighbours, the pairs: the larger the better


def align(possible: Mapping[Pair, bool]) -> dict[int, int]:
    """Give the place in the reference for each aligned place of the candidate.

    `possible` holds the pairs to choose from, and whether the two words are equal.
    """
    options: dict[int, list[int]] = {}
    claims: dict[int, int] = {}
    for mine, its in possible:
        options.setdefault(mine, []).append(its)
        claims[its] = claims.get(its, 0) + 1
    certain = {
        mine: places[0]
        for mine, places in options.items()
        if len(places) == 1 and claims[places[0]] == 1
    }
    if len(certain) == len(options):
        return certain
    disputed = {mine: places for mine, places in options.items() if mine not in certain}
    return certain | dict(_search(disputed, certain, possible))


def count_chunks(alignment: Mapping[int, int]) -> int:
    """Count the runs of places that are neighbours, in the same order, in both captions."""
    return sum(alignment.get(mine - 1) != its - 1 for mine, its in alignment.items())


def _search(
    disputed: Mapping[int, list[int]], certain: Mapping[int, int], equal: Mapping[Pair, bool]
) -> tuple[Pair, ...]:
    """Pair the disputed places, from left to right, in the best of all ways that the beam holds."""
    hypotheses: dict[tuple[int, Pair], _Hypothesis] = {(0, _NOWHERE): (0, 0, 0, ())}
    for mine, places in disputed.items():
        # What may follow depends on the places taken and on the pair just made: of hypotheses alike in both, keep one.
        extended: dict[tuple[int, Pair], _Hypothesis] = {}
        for (taken, last), hypothesis in hypotheses.items():
            alone = (taken, _NOWHERE)  # this place stays without a partner
            if alone not in extended or hypothesis > extended[alone]:
                extended[alone] = hypothesis
            equals, size, neighbours, pairs = hypothesis
            for its in places:
                if taken >> its & 1:
                    continue
                pair = mine, its
                before = last == (mine - 1, its - 1) or certain.get(mine - 1) == its - 1
                after = certain.get(mine + 1) == its + 1
                longer = (
                    equals + equal[pair],
                    size + 1,
                    neighbours + before + after,
                    (*pairs, pair),
                )
                key = (taken | 1 << its, pair)
                if key not in extended or longer > extended[key]:
                    extended[key] = longer
        if len(extended) > BEAM:
            extended = dict(nlargest(BEAM, extended.items(), key=lambda item: item[1]))
        hypotheses = extended
    return max(hypotheses.values())[-1]


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
        self._lexicon = Lexicon(
            word for captions in references for words in captions for word in words
        )
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
            rows.append(
                max(
                    (_compare(candidate, _Reference(caption)) for caption in references), key=meteor
                )
            )
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
