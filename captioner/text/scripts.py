"""Captions that are not English, for the rules of tokenizer.py: other scripts and punctuation.

tokenizer.py imports this module for text that is not ASCII only, so English needs no `regex`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import islice, pairwise
from typing import Literal

import regex

from captioner.text.multilingual import normalize
from captioner.text.spacing import STARTS_UNSPACED, UNSPACED, never_spaced

# Marks that are a part of a word where they stand inside it: hyphens, the dot of Catalan
# "paral·lel", Hebrew and Armenian marks, and the separators of Arabic numbers.
_INSIDE_WORDS = r"[‐‑·־׳״՚՛՜՞՟٫٬]"
_LETTER = r"[\p{L}\p{M}\p{N}]"
# Not after a number such as "3,5", and not before "n't": these are words of their own.
_WITHIN = rf"(?<={_LETTER})(?<![.,:+-]\p{{Nd}}+){_INSIDE_WORDS}(?!n['‘’]t){_LETTER}"
# tokenizer.py has its own rules for ASCII and for ‘’“”„«»…–—.
_PUNCTUATION = regex.compile(rf"(?!{_WITHIN})[\p{{P}}--[\x00-\x7F‘’“”„«»…–—]]", regex.V1)
# A character of a script without spaces, or an emoji, with its marks (UAX 29); not "©" and "™".
_EMOJI = r"[\p{RI}\p{Extended_Pictographic}--[\x00-\u22FF]]"
_CHARACTER = regex.compile(rf"(?={_EMOJI}|{UNSPACED})\X\p{{M}}*", regex.V1)
_UNSPACED = regex.compile(UNSPACED, regex.V1)
_HAN = regex.compile(r"\p{Han}")
_CAPITAL_INSIDE = regex.compile(r"(?<=[\p{Ll}\p{N},] )\p{Lu}\p{Ll}", regex.V1)

MAX_CAPTIONS = 2_000  # captions that `suitable_kind_hint` looks at
MIN_SHARE = 0.2  # of the captions, with letters or capitals as English hardly has them


def separate(text: str) -> str:
    """Return a text in which spaces divide what English writes with spaces.

    They take the place of punctuation, and are around each emoji and each character of a script
    without spaces: the words of Chinese, Japanese or Thai captions are their characters. The text
    is in Unicode's composed form: "é" is one word however it is encoded.
    """
    # First the characters: a mark beside one of them is at the end of a word, not inside it.
    separated: str = _CHARACTER.sub(r" \g<0> ", normalize(text))
    return str(_PUNCTUATION.sub(" ", separated))


def join(words: Sequence[str]) -> str:
    """Return words with spaces between them, but beside a character of a script without spaces."""
    text = "".join(words[:1])
    for left, right in pairwise(words):
        text += right if never_spaced(left, right) else f" {right}"
    return text


def is_unspaced(word: str) -> bool:
    """Return whether a token starts with a character of a script without spaces."""
    return STARTS_UNSPACED.match(word) is not None


def script_without_spaces(texts: Iterable[str]) -> Literal["", "han", "other"]:
    """Return the script of texts if it has no spaces between words: that of Chinese, or another."""
    sample = "".join(islice(texts, MAX_CAPTIONS))
    unspaced = _UNSPACED.findall(sample)
    if 2 * len(unspaced) < sum(map(str.isalpha, sample)) or not unspaced:
        return ""
    han = sum(_HAN.match(char) is not None for char in unspaced)
    return "han" if han > 0.9 * len(unspaced) else "other"


def suitable_kind_hint(captions: Iterable[str]) -> str:
    """Return one line if the caption tokenizer does not suit captions, else an empty text."""
    texts = list(islice(filter(None, captions), MAX_CAPTIONS))
    if not texts:
        return ""
    unspaced = sum(_UNSPACED.search(text) is not None for text in texts)
    accented = sum(any(char.isalpha() and char > "\x7f" for char in text) for text in texts)
    capitals = sum(_CAPITAL_INSIDE.search(text) is not None for text in texts)
    if unspaced >= MIN_SHARE * len(texts):
        reason = "are in a script without spaces"
    elif accented >= MIN_SHARE * len(texts):
        reason = "have letters that English lacks"
    elif capitals >= 2 * MIN_SHARE * len(texts):  # names of people and places are English too
        reason = "have capitals inside sentences"
    else:
        return ""
    return (
        f"the captions {reason}: data.tokenizer.kind=word suits them; the default is COCO's "
        "tokenizer for English, and models that use it write lower case without punctuation"
    )
