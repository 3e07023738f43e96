"""Which English words METEOR takes for a match, and which for function words. Knows words, not captions."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache

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
