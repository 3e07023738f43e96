"""Tokenizers for text of any language: words and characters; subword.py has subwords.

They work on Unicode's composed form (NFC), without characters that are never seen, such as soft
hyphens. For all of them `tokenize(detokenize(words)) == words` if `tokenize` returned `words`.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Any, ClassVar

import regex

from captioner.errors import UsageError
from captioner.text import truecasing
from captioner.text.spacing import (
    CHAR,
    CLITIC,
    STARTS_UNSPACED,
    UNSPACED,
    attached,
    never_spaced,
    usual_spacing,
)
from captioner.text.tokenizer import CAPTION_TOKENIZER, Tokenizer

if TYPE_CHECKING:
    from captioner.config.schema import TokenizerName

# No condition here looks at what is before a token, but for a space: a token is the same alone.
_TOKEN = regex.compile(
    rf"""
    # an emoji of one or more code points, or a character of a script without spaces (UAX 29)
    (?: (?=\p{{RI}}|\p{{Extended_Pictographic}}|{UNSPACED})\X | [0-9\#*]\uFE0F?\u20E3 )\p{{M}}*
  | (?:https?://|www\.)[^\s<>"']*[\p{{L}}\p{{N}}/]\p{{M}}*
  | [\w.+-]{{1,64}}@[\w-]+(?:\.[\w-]+)+\p{{M}}*
  | &(?:\p{{L}}{{2,8}}|\#\d{{1,6}});\p{{M}}*              # &amp;
  | {CLITIC}                                            # man 's
    # l' homme, dell' arte
  | (?i:[cdjlmnst]|qu|jusqu|lorsqu|puisqu|dell|all|dall|nell|sull|un)[’'](?=\p{{L}}{CHAR})
  | [’'](?i:\p{{Nd}}0s|em|til|tis|twas|n[’']?)(?!{CHAR})  # the '70s, rock 'n' roll
  | (?:\p{{L}}\.){{2,9}}(?!{CHAR})                        # U.S. z.B.
  | (?<!\S)[-−+]\p{{Nd}}+(?:[.,:/]\p{{Nd}}+)*(?!{CHAR})   # -5
    # don't o'clock T-Shirt AT&T 3,5 10:30
  | {CHAR}+(?:(?:[-‐‑·&־׳״՚՛՜՞՟]|(?!{CLITIC})[’']|(?<=\p{{Nd}})[.,:/](?=\p{{Nd}})){CHAR}+)*
    (?:-(?=[\s,]|\Z))?                                  # Ess- und Wohnzimmer
  | ([.!?*=~—…-])\1+(?!\p{{M}})                         # ...
  | [^\s\p{{Cc}}\p{{Cs}}]\p{{M}}*
    """,
    regex.VERBOSE | regex.V1,
)
_INVISIBLE = regex.compile(
    r"[[\p{Cf}&&\p{Default_Ignorable_Code_Point}]--[\u200C\u200D\U000E0020-\U000E007F]]", regex.V1
)


def normalize(text: str) -> str:
    """Return a text in Unicode's composed form, without characters that are never seen."""
    return unicodedata.normalize("NFC", _INVISIBLE.sub("", text))


@dataclass(frozen=True)
class WordTokenizer:
    """Words, numbers and punctuation marks; characters in scripts that are written without spaces.

    Beside a character of such a script, a space is a token. All other spaces are left out, and
    `detokenize` puts them where text usually has them.

    Attributes:
        fold_case: tokens are lower case, and `detokenize` restores the usual case.
        usual_case: of words, as `usual_case_of` returns it: {"nike": "Nike"}.
        capitalize: with `fold_case`, `detokenize` starts a sentence with a capital.
        spacing: of symbols, as `usual_spacing_of` returns it: {"%": "none"}. A symbol is attached
            to the "left", to the "right", to "both" or to "none". Others have the common side.
    """

    fold_case: bool = False
    usual_case: Mapping[str, str] = field(default_factory=dict)
    capitalize: bool = False
    spacing: Mapping[str, str] = field(default_factory=dict)

    kind: ClassVar[TokenizerName] = "word"

    def tokenize(self, text: str) -> list[str]:
        """Return the tokens of a text: "Ein Hund, der läuft." -> Ein Hund , der läuft ."""
        return [word for word, _ in _with_spaces(self._fold(normalize(text)))]

    def detokenize(self, words: Iterable[str], copied: Collection[int] = ()) -> str:
        """Return tokens as text: punctuation is attached as it is in written text.

        With `fold_case`, words have their usual case, except for those with capitals and those at
        the positions `copied`.
        """
        spelled = list(words)
        tokens = [self._fold(word) for word in spelled]  # what `tokenize` returns of the text
        cased = tokens
        if self.fold_case:
            usual = truecasing.restore(tokens, self.usual_case, capitalize=self.capitalize)
            kept = {i for i, word in enumerate(spelled) if i in copied or word != tokens[i]}
            cased = [spelled[i] if i in kept else form for i, form in enumerate(usual)]
        glued = attached(tokens, self.spacing)
        spaced = [word if glue else f" {word}" for word, glue in zip(cased, glued, strict=True)]
        text = "".join(spaced).strip()
        return text if self.tokenize(text) == tokens else self._join_with_care(tokens, cased, glued)

    def to_json(self) -> dict[str, Any]:
        """Return all settings."""
        return {"kind": self.kind, **asdict(self)}

    def _fold(self, text: str) -> str:
        """Return a text in lower case with `fold_case`, else as it is."""
        return unicodedata.normalize("NFC", text.lower()) if self.fold_case else text

    def _join_with_care(self, tokens: list[str], cased: list[str], glued: list[bool]) -> str:
        """Return tokens as text, with a space wherever tokens would be read in another way.

        Such sequences are rare: "5" and "/" and "8" of "5 / 8" are one token without spaces.
        """
        chunks, start = [""], 0  # the parts between spaces; the last one starts at tokens[start]
        must_be_glued = [False, *(never_spaced(*pair) for pair in pairwise(tokens))]
        for i, word in enumerate(cased):
            known = word if self.tokenize(word) == [tokens[i]] else tokens[i]
            longer = chunks[-1] + known
            unchanged = glued[i] and self.tokenize(longer) == tokens[start : i + 1]
            if unchanged or must_be_glued[i]:
                chunks[-1] = longer
            else:
                chunks.append(known)
                start = i
        return " ".join(chunks).strip()


def _with_spaces(text: str) -> list[tuple[str, bool]]:
    """Return the tokens of a text, and whether a space is before each."""
    tokens: list[tuple[str, bool]] = []
    spaces_count = STARTS_UNSPACED.search(text) is not None  # elsewhere, no space is a token
    end, unspaced = 0, False
    for match in _TOKEN.finditer(text):
        word, space = match[0], match.start() > end or not tokens
        if spaces_count:
            last, unspaced = unspaced, STARTS_UNSPACED.match(word) is not None
            if space and tokens and (last or unspaced):
                tokens.append((" ", False))
        tokens.append((word, space))
        end = match.end()
    return tokens


def usual_case_of(texts: Iterable[str]) -> dict[str, str]:
    """Return the usual case of the words in texts, as described in truecasing.py."""
    return truecasing.usual_case(map(WordTokenizer().tokenize, texts))


def usual_spacing_of(texts: Iterable[str]) -> dict[str, str]:
    """Return the sides on which texts attach symbols, where they are not the common ones."""
    return usual_spacing(_with_spaces(normalize(text)) for text in texts)


@dataclass(frozen=True)
class CharacterTokenizer:
    """Characters as readers see them (grapheme clusters, UAX 29), spaces included."""

    kind: ClassVar[TokenizerName] = "character"

    def tokenize(self, text: str) -> list[str]:
        """Return the characters of a text; any white space is one token " "."""
        characters: list[str] = regex.findall(r"\X", " ".join(normalize(text).split()))
        return characters

    def detokenize(self, words: Iterable[str], copied: Collection[int] = ()) -> str:
        """Return characters as text; all keep their spelling."""
        return "".join(words)

    def to_json(self) -> dict[str, Any]:
        """Return the kind: there is nothing else to store."""
        return {"kind": self.kind}


def build_tokenizer(
    kind: str, *, texts: Iterable[str], fold_case: bool = False, subwords: int = 8000
) -> Tokenizer:
    """Return a tokenizer, which learns from texts what it needs to know of their language.

    Args:
        kind: "caption", "word", "character" or "subword".
        texts: the training texts that it is for.
        fold_case: "word" only: lower-case tokens; the usual case of each word is learnt.
        subwords: "subword" only: how many there are.

    Raises:
        UsageError: the kind is unknown, or the library that it needs is not installed.
    """
    match kind:
        case "caption":
            return CAPTION_TOKENIZER
        case "character":
            return CharacterTokenizer()
        case "subword":
            from captioner.text.subword import train_subwords  # an optional library

            return train_subwords(texts, subwords)
        case "word":
            texts = list(texts)
            spacing = usual_spacing_of(texts)
            if not fold_case:
                return WordTokenizer(spacing=spacing)
            capitalize = truecasing.starts_with_capital(texts)
            return WordTokenizer(True, usual_case_of(texts), capitalize, spacing)
    raise _unknown(kind)


def tokenizer_from_json(values: object) -> Tokenizer:
    """Return the tokenizer whose `to_json` returned `values`.

    Raises:
        UsageError: `values` is not of a tokenizer, or the library it needs is not installed.
    """
    match values:
        case {"kind": "caption"}:
            return CAPTION_TOKENIZER
        case {"kind": "character"}:
            return CharacterTokenizer()
        case {"kind": "subword", "model": str(model)}:
            from captioner.text.subword import SubwordTokenizer

            return SubwordTokenizer(model)
        case {
            "kind": "word",
            "fold_case": bool(fold_case),
            "usual_case": dict(usual_case),
            "capitalize": bool(capitalize),
            "spacing": dict(spacing),
        } if all(isinstance(form, str) for form in [*usual_case.values(), *spacing.values()]):
            return WordTokenizer(fold_case, usual_case, capitalize, spacing)
    raise _unknown(values)


def _unknown(what: object) -> UsageError:
    return UsageError(f"{what!r:.60} is no tokenizer: use caption, word, character or subword")
