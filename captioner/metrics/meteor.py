"""METEOR 1.5 for English without Java (Denkowski and Lavie 2014), without the paraphrase matcher.

Two words match if they are equal, have the same stem, or share a synset in WordNet. WordNet is used
if nltk's data for it is installed. On COCO's captions the score is 0.012 to 0.0135 below that of
Java's METEOR without WordNet, and about 0.005 below with it (`tests/metrics/test_on_coco.py`).
Compare scores only if their signatures name the same matchers.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from heapq import nlargest
from operator import itemgetter

import numpy as np

from captioner.metrics.bleu import Number

METEOR_VERSION = "1.5-1"

EXACT, STEM, SYNONYM = 1.0, 0.6, 0.8
"""The weights w_i of the matchers. If two words match in several ways, the first one counts."""

# The other parameters of METEOR 1.5 for English, tuned to human rankings of translations.
ALPHA = 0.85  # weight of precision in the denominator of the F-mean: recall counts more
BETA, GAMMA = 0.2, 0.6  # exponent and size of the fragmentation penalty
DELTA = 0.75  # weight of a content word; that of a function word is 1 - DELTA

_FREQUENT = """
    1 2 a about after all also an and any are as at back be because been but by could do first for
    from get go good had has have he her him his how i if in into is it its just know like make me
    more most much my new no not now of on one only or other our out over people said see she so
    some than that the their them then there these they think this time to two up us very want was
    way we well were what when where which who will with would you your
    'd 'll 'm 're 's 've can n't
"""
FUNCTION_WORDS = frozenset(_FREQUENT.split())
"""English words with a frequency above 1 in 1,000 in wordfreq 3.1 (Speer 2022), and contractions.

METEOR 1.5 uses the same threshold (Denkowski and Lavie 2011) on another corpus. Its list also has
punctuation, "last", "year" and "years", and lacks some thirty words of spoken English, for example
"my", "good", "back" and "very"."""


class Meteor:
    """METEOR against one set of references, whose vocabulary is indexed once."""

    def __init__(self, references: Sequence[Sequence[Sequence[str]]]) -> None:
        """Index tokenized references: images x references x words, at least one for each image."""
        self._lexicon = Lexicon(
            word for captions in references for words in captions for word in words
        )
        self._images = references
        self.stages = self._lexicon.stages

    def score(self, candidates: Sequence[Sequence[str]]) -> tuple[float, list[float]]:
        """Return the METEOR (0 to 1) of the set, and that of each image.

        `candidates` has one tokenized caption for each image, in the order of the references. As in
        Java's METEOR, the score of the set is computed from sums over images; it is not the mean.
        """
        return corpus_meteor(self.statistics(candidates))

    def statistics(self, candidates: Sequence[Sequence[str]]) -> list[tuple[float, ...]]:
        """Return six numbers for each image, for the reference with the best score.

        They are the weights of the matched words in the candidate and in the reference, the weights
        of all words in the candidate and in the reference, the matches, and the chunks. `meteor` of
        their sums over images is the METEOR of the set.
        """
        rows = []
        for words, references in zip(candidates, self._images, strict=True):
            matches = [self._lexicon.matches(word) for word in words]
            rows.append(max((_match(words, matches, other) for other in references), key=meteor))
        return rows


def corpus_meteor(rows: Sequence[Sequence[float]]) -> tuple[float, list[float]]:
    """Return the METEOR (0 to 1) of all rows of `Meteor.statistics`, and that of each row."""
    sums = [sum(column) for column in zip(*rows, strict=True)]
    return meteor(sums or [0.0] * 6), [meteor(row) for row in rows]


def meteor(sums: Sequence[Number]) -> Number:
    """Return the METEOR (0 to 1) from the sums of the six columns of `Meteor.statistics`.

    Each sum is a number, or an array (S,) with one entry for each of S samples of images; the
    result has the same shape. Denkowski and Lavie 2014, section 2: (1 - penalty) · F-mean.
    """
    matched, reference_matched, weight, reference_weight, matches, chunks = sums
    # F-mean = P R / (α P + (1 - α) R) with P = matched / weight and R = reference_matched /
    # reference_weight, multiplied out so that nothing is divided by 0 if no word matches.
    weighted = ALPHA * matched * reference_weight + (1 - ALPHA) * reference_matched * weight
    f_mean = matched * reference_matched / np.maximum(weighted, 1e-9)
    penalty = GAMMA * (chunks / np.maximum(matches, 1)) ** BETA
    score: Number = f_mean * (1 - penalty)
    return score


def _match(
    words: Sequence[str], matches: Sequence[Mapping[str, float]], reference: Sequence[str]
) -> tuple[float, ...]:
    """Return the row of `Meteor.statistics` for one candidate and one reference.

    Args:
        words: the candidate.
        matches: for each word of the candidate, the words that match it, and the weights w_i.
        reference: the reference.
    """
    # The positions are not kept for the next candidate, because 25,000 dictionaries in memory cost
    # more time in the garbage collector than it takes to make them.
    positions: dict[str, tuple[int, ...]] = {}
    for j, word in enumerate(reference):
        positions[word] = (*positions.get(word, ()), j)
    weights = {
        (i, j): matching[word]
        for i, matching in enumerate(matches)
        for word in matching
        for j in positions.get(word, ())
    }  # w_i of each pair of positions that may be aligned
    alignment = align({pair: weight == EXACT for pair, weight in weights.items()})
    chunks = count_chunks(alignment)
    if chunks == 1 and len(alignment) == len(words) == len(reference):
        chunks = 0  # METEOR has no penalty if all words match in the same order
    matched = reference_matched = 0.0
    for i, j in alignment.items():
        matched += weights[i, j] * _word_weight(words[i])
        reference_matched += weights[i, j] * _word_weight(reference[j])
    weight, reference_weight = (sum(map(_word_weight, caption)) for caption in (words, reference))
    return matched, reference_matched, weight, reference_weight, len(alignment), chunks


def _word_weight(word: str) -> float:
    return 1 - DELTA if word in FUNCTION_WORDS else DELTA


class Lexicon:
    """Finds the words of one vocabulary that match a word, and caches the results.

    `stages` names the matchers in use: "exact+stem" or "exact+stem+wordnet".
    """

    def __init__(self, vocabulary: Iterable[str]) -> None:
        """Index the words of the references by their stems and synsets."""
        from nltk.corpus import wordnet  # importing nltk takes a second
        from nltk.stem.snowball import EnglishStemmer

        self._stem = cache(EnglishStemmer().stem)  # the Porter2 stemmer, as in METEOR 1.5
        self._wordnet = wordnet
        try:
            wordnet.ensure_loaded()
            self.stages = "exact+stem+wordnet"
        except LookupError:
            self.stages = "exact+stem"
        self._words: dict[str, list[str]] = {}  # stem or synset -> words
        for word in dict.fromkeys(vocabulary):
            for key in self._keys(word):
                self._words.setdefault(key, []).append(word)
        self.matches = cache(self._matches)

    def _matches(self, word: str) -> dict[str, float]:
        """Return the words of the vocabulary that match `word`, with the weight of each match."""
        others = (other for key in self._keys(word) for other in self._words.get(key, ()))
        return {other: self._match_weight(word, other) for other in others}

    def _match_weight(self, word: str, other: str) -> float:
        if word == other:
            return EXACT
        return STEM if self._stem(word) == self._stem(other) else SYNONYM

    def _keys(self, word: str) -> list[str]:
        """Return the stem, and the names of the synsets, for example "dog.n.01"."""
        synsets = self._wordnet.synsets(word) if self.stages.endswith("wordnet") else ()
        return [self._stem(word), *(synset.name() for synset in synsets)]


BEAM = 40
"""Hypotheses that the alignment search keeps, as in METEOR 1.5. Few captions need as many."""

Pair = tuple[int, int]
"""A position i in the candidate and a position j in the reference."""

_NO_PAIR = (-2, -2)  # adjacent to no other pair


_Hypothesis = tuple[int, int, int, tuple[Pair, ...]]
"""A partial alignment: equal words, pairs, adjacent pairs, and the pairs. The greater is better."""

_Beam = dict[tuple[int, Pair], _Hypothesis]
"""The best hypothesis for each bit mask of used reference positions and each last pair."""


def align(candidates: Mapping[Pair, bool]) -> dict[int, int]:
    """Return the aligned reference position j for each aligned candidate position i.

    The alignment has the most pairs of equal words, then the most pairs, then the fewest chunks
    (Denkowski and Lavie 2011, section 2).

    Args:
        candidates: the pairs to choose from, and whether their two words are equal.
    """
    options: dict[int, list[int]] = {}
    uses: dict[int, int] = {}  # candidate positions that may be aligned with each j
    for i, j in candidates:
        options.setdefault(i, []).append(j)
        uses[j] = uses.get(j, 0) + 1
    unique = {i: js[0] for i, js in options.items() if len(js) == 1 and uses[js[0]] == 1}
    if len(unique) == len(options):
        return unique
    ambiguous = {i: js for i, js in options.items() if i not in unique}
    return unique | dict(_search(ambiguous, unique, candidates))


def count_chunks(alignment: Mapping[int, int]) -> int:
    """Count the chunks: maximal runs of pairs that are adjacent in both captions."""
    return sum(alignment.get(i - 1) != j - 1 for i, j in alignment.items())


def _search(
    ambiguous: Mapping[int, list[int]], unique: Mapping[int, int], equal: Mapping[Pair, bool]
) -> tuple[Pair, ...]:
    """Align the ambiguous candidate positions from left to right by beam search."""
    beam: _Beam = {(0, _NO_PAIR): (0, 0, 0, ())}
    for i, options in ambiguous.items():
        # Hypotheses with the same key have the same possible continuations: keep the best of them.
        extended: _Beam = {}
        for (used, last), hypothesis in beam.items():
            unaligned = (used, _NO_PAIR)  # position i is not aligned
            extended[unaligned] = max(hypothesis, extended.get(unaligned, hypothesis))
            equal_words, size, adjacent, pairs = hypothesis
            for j in options:
                if used >> j & 1:
                    continue
                pair = (i, j)
                follows = last == (i - 1, j - 1) or unique.get(i - 1) == j - 1
                precedes = unique.get(i + 1) == j + 1
                longer = (
                    equal_words + equal[pair],
                    size + 1,
                    adjacent + follows + precedes,
                    (*pairs, pair),
                )
                key = (used | 1 << j, pair)
                extended[key] = max(longer, extended.get(key, longer))
        if len(extended) > BEAM:
            extended = dict(nlargest(BEAM, extended.items(), key=itemgetter(1)))
        beam = extended
    return max(beam.values())[-1]
