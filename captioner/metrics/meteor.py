"""METEOR 1.5 for English without Java (Denkowski and Lavie 2014).

Two words match if they are equal, have the same stem, or share a synset of WordNet; two phrases
match if they are a pair of METEOR's paraphrase table. The table, the synsets and the function words
are read from the METEOR of pycocoevalcap where it is installed: see `meteor_words.py`. The score
then equals that of the Java program to .001 on each set compared (tests/metrics/test_on_coco.py).

Without the table the score is lower, by .005 to .0135 on COCO's captions, and has another name:
`Meteor.name`. Compare scores only if their signatures name the same matchers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path

import numpy as np

from captioner.console import loading
from captioner.metrics.bleu import Number
from captioner.metrics.english import english_stem, load_wordnet
from captioner.metrics.meteor_align import Match, align, count_chunks
from captioner.metrics.meteor_words import (
    FUNCTION_WORDS,
    TABLE,
    find_meteor,
    normalize,
    read_function_words,
    read_synonyms,
)
from captioner.metrics.paraphrases import PhraseMatcher, PhraseMatches, phrases_of

METEOR_VERSION = "1.5-2"

EXACT, STEM, SYNONYM, PARAPHRASE = 1.0, 0.6, 0.8, 0.6
"""The weights w_i of the matchers. If two words match in several ways, the first one counts."""

# The other parameters of METEOR 1.5 for English, tuned to human rankings of translations.
ALPHA = 0.85  # weight of precision in the denominator of the F-mean: recall counts more
BETA, GAMMA = 0.2, 0.6  # exponent and size of the fragmentation penalty
DELTA = 0.75  # weight of a content word; that of a function word is 1 - DELTA

FULL_NAME, PARTIAL_NAME = "METEOR", "METEOR_no_paraphrases"
"""The names of the metric with the paraphrase table, as papers report it, and without."""


class Meteor:
    """METEOR against one set of references, whose vocabulary is indexed once."""

    def __init__(
        self, references: Sequence[Sequence[Sequence[str]]], *, paraphrases: bool = True
    ) -> None:
        """Index tokenized references: images x references x words, at least one for each image.

        Args:
            references: the references.
            paraphrases: use METEOR's own lists and table if they are installed; False saves the
                time and memory that the table takes, and does not depend on the package.
        """
        self._images = [[normalize(words) for words in captions] for captions in references]
        self._lexicon = Lexicon(self._images, find_meteor() if paraphrases else None)
        self.stages = self._lexicon.stages
        self.name = meteor_name(self.stages)

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
        captions = [normalize(words) for words in candidates]
        all_phrases = self._lexicon.phrases(captions)
        for words, phrases, references in zip(captions, all_phrases, self._images, strict=True):
            matching = [self._lexicon.matches(word) for word in words]
            each = (self._row(words, matching, phrases, other) for other in references)
            rows.append(max(each, key=meteor))
        return rows

    def _row(
        self,
        words: Sequence[str],
        matching: Sequence[Mapping[str, Sequence[float]]],
        phrases: Sequence[PhraseMatches],
        reference: Sequence[str],
    ) -> tuple[float, ...]:
        """Return the row of `statistics` for one candidate and one reference.

        Args:
            words: the candidate.
            matching: for each of its words, the words that match it, and the weights w_i.
            phrases: of each of its phrases that has paraphrases in the references: the start, the
                length, and these paraphrases.
            reference: the reference.
        """
        positions: dict[str, list[int]] = {}
        for j, word in enumerate(reference):
            positions.setdefault(word, []).append(j)
        matches = [
            Match(j, 1, i, 1, weight)
            for i, others in enumerate(matching)
            for word, weights in others.items()
            for j in positions.get(word, ())
            for weight in weights
        ]
        if phrases:
            spans: dict[str, list[tuple[int, int]]] = {}
            for j, length, phrase in phrases_of(reference):
                spans.setdefault(phrase, []).append((j, length))
            matches += [
                Match(j, length, i, candidate_length, PARAPHRASE)
                for i, candidate_length, others in phrases
                for phrase in others.keys() & spans.keys()
                for j, length in spans[phrase]
                for _ in range(others[phrase])
            ]
        alignment = align(matches)
        matched = reference_matched = 0.0
        size = reference_size = 0  # the matched words
        for start, length, candidate_start, candidate_length, weight in alignment:
            own = words[candidate_start : candidate_start + candidate_length]
            other = reference[start : start + length]
            matched += weight * self._lexicon.weigh(own)
            reference_matched += weight * self._lexicon.weigh(other)
            size += candidate_length
            reference_size += length
        chunks = count_chunks(alignment)
        if chunks == 1 and size == len(words) and reference_size == len(reference):
            chunks = 0  # METEOR has no penalty if all words match in the same order
        totals = self._lexicon.weigh(words), self._lexicon.weigh(reference)
        return matched, reference_matched, *totals, (size + reference_size) / 2, chunks


def meteor_name(stages: str) -> str:
    """Return the name of the metric with these matchers: see `Lexicon`."""
    return FULL_NAME if stages.endswith("paraphrase") else PARTIAL_NAME


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


class Lexicon:
    """Finds the words and phrases of one set of references that match others; caches the results.

    `stages` names the matchers in use: "exact+stem+synonym+paraphrase" are METEOR's own; without
    them "exact+stem+wordnet" or "exact+stem".
    """

    def __init__(self, references: Sequence[Sequence[Sequence[str]]], folder: Path | None) -> None:
        """Index the words of the references by their stems and synsets.

        Args:
            references: images x references x normalized words.
            folder: METEOR's folder: see `find_meteor`. The table in it is read when it is used.
        """
        self._stem = cache(english_stem())  # the Porter2 stemmer, as in METEOR 1.5
        self._synsets: Callable[[str], Sequence[str]]
        if folder:
            self._synsets, self._function_words = read_synonyms(folder), read_function_words(folder)
            self.stages = "exact+stem+synonym+paraphrase"
        else:
            wordnet = load_wordnet()
            self._synsets = wordnet.synsets if wordnet else lambda _: ()
            self._function_words = FUNCTION_WORDS
            self.stages = "exact+stem+wordnet" if wordnet else "exact+stem"
        self._references, self._folder = references, folder
        self._stems: dict[str, list[str]] = {}  # stem -> words
        self._senses: dict[str, list[str]] = {}  # synset -> words
        for word in dict.fromkeys(_words(references)):
            self._stems.setdefault(self._stem(word), []).append(word)
            for name in self._synsets(word):
                self._senses.setdefault(name, []).append(word)
        self.matches = cache(self._matches)
        self._matcher: PhraseMatcher | None = None  # made when it is needed

    def weigh(self, words: Sequence[str]) -> float:
        """Return the sum of the weights of words: DELTA for content, 1 - DELTA for function."""
        function = sum(word in self._function_words for word in words)
        return DELTA * (len(words) - function) + (1 - DELTA) * function

    def phrases(self, candidates: Sequence[Sequence[str]]) -> list[list[PhraseMatches]]:
        """Return, for each candidate, its phrases that have paraphrases in the references.

        Raises:
            UsageError: the paraphrase table cannot be read.
        """
        if self._folder is None:
            return [[] for _ in candidates]
        if self._matcher is None:
            references = (words for captions in self._references for words in captions)
            with loading("METEOR's paraphrase table"):
                self._matcher = PhraseMatcher(self._folder / TABLE, references)
        return self._matcher.matches(candidates)

    def _matches(self, word: str) -> dict[str, list[float]]:
        """Return the words of the vocabulary that match `word`, and the weights of the matches."""
        matches: dict[str, list[float]] = {}
        for other in self._stems.get(self._stem(word), ()):
            matches[other] = [EXACT if other == word else STEM]
        synonyms = {other for name in self._synsets(word) for other in self._senses.get(name, ())}
        for other in sorted(synonyms - {word}):
            matches.setdefault(other, []).append(SYNONYM)
        return matches


def _words(references: Sequence[Sequence[Sequence[str]]]) -> Iterable[str]:
    return (word for captions in references for words in captions for word in words)
