"""Restore the case of lower-case words (truecasing; Lita et al. 2003, "tRuEcasIng").

What is learnt is one mapping, so that it can be stored and read. Its keys are of three kinds:

* `"-ung": "A"`: a word that ends in "ung" starts with a capital; `"-ig": "a"`: with none. The
  longest ending decides;
* `"nike": "NIKE"`: the most frequent form of a word inside sentences, if its ending does not tell;
* `"eine junge": "junge"`: the form of the last word after the other one, where that differs.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence

SENTENCE_ENDS = frozenset([".", "!", "?", "...", "…", "!!", "!!!", "。", "！", "？"])
MIN_COUNT = 2  # how often two words must follow each other for a rule of their own
MIN_WORDS = 2  # how many rare words must share an ending for a rule
RARE = 3  # words at most this frequent tell how unknown words are written
LONGEST_ENDING = 6


def usual_case(sentences: Iterable[Sequence[str]]) -> dict[str, str]:
    """Return the usual case of the words in tokenized sentences.

    The first word of a sentence is not counted: its capital says nothing.
    """
    forms: defaultdict[str, Counter[str]] = defaultdict(Counter)
    after: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for words in sentences:
        at_start, last = True, ""
        for word in words:
            folded = word.lower()
            if not at_start and is_word(word):
                forms[folded][word] += 1
                after[f"{last} {folded}"][word] += 1
            at_start = word in SENTENCE_ENDS or (at_start and not is_word(word))
            last = folded
    usual = {word: _most_frequent(counts) for word, counts in forms.items()}
    endings = _endings({word: form for word, form in usual.items() if forms[word].total() <= RARE})
    exceptions: dict[str, str] = {}
    for word in sorted(usual, key=lambda word: ("-" in word, word)):  # parts before compounds
        if usual[word] != _guess(word, endings | exceptions):
            exceptions[word] = usual[word]
    pairs = {}
    for pair, counts in sorted(after.items()):
        form = _most_frequent(counts)
        if counts[form] >= MIN_COUNT and form != usual[form.lower()]:
            pairs[pair] = form
    return endings | exceptions | pairs


def restore(words: Sequence[str], usual: Mapping[str, str], *, capitalize: bool) -> list[str]:
    """Return lower-case words in their usual case.

    Args:
        words: the tokens of a text.
        usual: what `usual_case` returned.
        capitalize: start each sentence with a capital.
    """
    restored, at_start, last = [], capitalize, ""
    for word in words:
        form = word
        if usual and is_word(word):
            form = usual.get(f"{last} {word}") or usual.get(word) or _guess(word, usual)
        if at_start and is_word(word):
            form = capitalized(word) if form == word else form
            at_start = False
        elif capitalize and word in SENTENCE_ENDS:
            at_start = True
        restored.append(form)
        last = word
    return restored


def starts_with_capital(texts: Iterable[str]) -> bool:
    """Return whether most texts start with a capital."""
    starts = [text.strip()[:1] for text in texts]
    return sum(map(str.isupper, starts)) > sum(map(str.islower, starts))


def is_word(token: str) -> bool:
    """Return whether a token is a word or a number."""
    return token[:1].isalnum()


def capitalized(word: str) -> str:
    """Return a word with a capital, if lower case returns the same word from it."""
    form = word[:1].upper() + word[1:]
    return form if form.lower() == word else word


def _most_frequent(counts: Counter[str]) -> str:
    """Return the most frequent form; of equally frequent ones, that with fewer capitals."""
    return max(counts, key=lambda form: (counts[form], form))


def _endings(usual: Mapping[str, str]) -> dict[str, str]:
    """Return the rules of endings: each says other than the next shorter ending."""
    votes: Counter[str] = Counter()
    totals: Counter[str] = Counter()
    for word, form in usual.items():
        for size in range(min(LONGEST_ENDING, len(word) - 1) + 1):
            ending = word[len(word) - size :]
            totals[ending] += 1
            votes[ending] += form[0].isupper()
    capitals = {
        ending: votes[ending] * 2 > total
        for ending, total in sorted(totals.items(), key=lambda item: (len(item[0]), item[0]))
        if total >= MIN_WORDS
    }
    return {
        f"-{ending}": "A" if capital else "a"
        for ending, capital in capitals.items()
        if capital != (capitals[ending[1:]] if ending else False)
    }


def _guess(word: str, usual: Mapping[str, str]) -> str:
    """Return a word without an entry, in the case that its endings tell: "u-bahn" -> "U-Bahn"."""
    parts = word.split("-")
    return "-".join(usual.get(part) or _by_ending(part, usual) for part in parts)


def _by_ending(word: str, usual: Mapping[str, str]) -> str:
    """Return an unknown word in the case of words with the longest known ending."""
    for start in range(max(1, len(word) - LONGEST_ENDING), len(word) + 1):
        ending = word[start:]
        if rule := usual.get(f"-{ending}"):
            return capitalized(word) if rule == "A" else word
    return word
