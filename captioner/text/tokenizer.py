"""Caption ↔ words: the one tokeniser of training captions, references and results. Knows nothing of word ids.

Penn Treebank tokens in lower case without punctuation, as COCO's evaluation counts them. COCO runs Stanford's Java
tokeniser; this one uses nltk's and agrees with it on 99.8 % of COCO's captions. It differs on purpose in two places:
brackets are removed (COCO means to, but looks for "-LRB-" after lower-casing to "-lrb-"), and full stops and hyphens
are stripped from both ends of every word, so that "T.V." is one word wherever it stands in the sentence.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nltk.tokenize.treebank import TreebankWordTokenizer

TOKENIZER_VERSION = "treebank-coco-1"
"""Goes into every signature; to be raised whenever `tokenize` gives other words for any caption."""

PUNCTUATION = frozenset(["''", "'", "``", "`", ".", "?", "!", ",", ":", "-", "--", "...", ";", ""])
"""COCO's list without its brackets, which are gone by then, and what stripping leaves of a lone dot or hyphen."""

_CLITIC = r"(?:s|m|d|t|n|ll|re|ve)"
_ASCII = str.maketrans({"‘": "'", "’": "'", "`": "'", "“": '"', "”": '"', "…": "...", "–": "--", "—": "--"})
_NOISE = re.compile(
    r"-[lr][rcs]b-|[()\[\]{}]"  # brackets, also as the Treebank writes them
    r"|\.{2,}"  # trailing off...
    rf"|(?<!\w)'(?!{_CLITIC}\b)(?=\w)"  # an opening quote, but not the clitic of "the dog 's bowl"
)
_PLAIN = re.compile(r"(?!.*\b(?:cannot|gimme|gonna|gotta|lemme|wanna)\b)[a-z ]*\.?")
_SPLIT_CLITIC = re.compile(r"(?<=[a-z]) (n't|'(?:s|m|d|ll|re|ve))(?!\S)")


def tokenize(caption: str) -> list[str]:
    """Split a caption into lower-case words without punctuation: "A dog's bowl." → a, dog, 's, bowl."""
    text = " ".join(caption.lower().split())
    if _PLAIN.fullmatch(text):  # nine captions of ten, and without nltk: the same words, sooner
        return text.removesuffix(".").split()
    return _tokenize_treebank(text)


def detokenize(words: Iterable[str]) -> str:
    """Write words as a caption that reads well, and that `tokenize` splits into the same words again."""
    return _SPLIT_CLITIC.sub(r"\1", " ".join(words))


def _tokenize_treebank(text: str) -> list[str]:
    """Split lower-case text whose only white space is single spaces."""
    words = _treebank().tokenize(_NOISE.sub(" ", text.translate(_ASCII)))
    return [word for word in (word.strip(".-") for word in words) if word not in PUNCTUATION]


@cache
def _treebank() -> TreebankWordTokenizer:
    """Import nltk late: it takes a second, which captioning an image should not pay for."""
    from nltk.tokenize.treebank import TreebankWordTokenizer

    return TreebankWordTokenizer()
