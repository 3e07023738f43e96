"""Where written text has spaces: which tokens are attached to their neighbours."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence

import regex

# Scripts without spaces: Han, the kana, and those whose words only a dictionary can find, such as
# Thai, Lao, Khmer and Myanmar (class SA of Unicode's line breaking algorithm, UAX 14).
UNSPACED = r"[[\p{Han}\p{Hiragana}\p{Katakana}ー\p{Line_Break=SA}]--\p{M}]"
# The characters of words in other scripts. Persian needs the joiners U+200C and U+200D.
CHAR = rf"[[\p{{L}}\p{{M}}\p{{N}}_\u200C\u200D]--{UNSPACED}]"
CLITIC = rf"[’'](?i:s|m|d|ll|re|ve)(?!{CHAR})"

STARTS_UNSPACED = regex.compile(UNSPACED, regex.V1)
_IS_CLITIC = regex.compile(CLITIC, regex.V1)
_ELIDED = regex.compile(r"\p{L}+[’']", regex.V1)  # l' qu'
_PLURAL = regex.compile(r"[\p{L}-]*[sxz]", regex.V1 | regex.IGNORECASE)
_SYMBOL = regex.compile(r"[\p{P}\p{S}]+", regex.V1)

_TO_LEFT = frozenset(".,;:!?…%‰°′″)]}।॥،؛؟۔։՝።፣፤፥፦፧၊။།")
_TO_RIGHT = frozenset("([{#$£¥¿¡@")
# The marks of Chinese and Japanese are wide: their space is a part of them.
_TO_BOTH = frozenset("/་・、。，．；：！？％（）［］｛｝【】〔〕「」『』《》〈〉")
# The marks that close a quotation, by the mark that opens it.
_CLOSING = {'"': '"“”', "'": "'", "“": '”"', "”": "”", "‘": "’", "„": '“”"', "‚": "‘’"}
_CLOSING |= {"«": "»", "»": "«", "‹": "›", "›": "‹"}
# The side of a symbol with a space (before it, after it).
_SIDES: dict[tuple[bool | None, bool | None], str]
_SIDES = {(True, True): "none", (False, True): "left", (True, False): "right"}
_SIDES |= {(False, False): "both"}
MIN_COUNT = 5  # how often a symbol must be seen before its spacing is learnt
MIN_SHARE = 2 / 3  # how many of these must agree


def attached(words: Sequence[str], spacing: Mapping[str, str]) -> list[bool]:
    """Return for each word whether no space is before it; none is before the first.

    Args:
        words: the tokens of a text.
        spacing: what `usual_spacing` returned.
    """
    result, to_next = [], True
    closing: list[str] = []  # the marks that close each open quotation
    for i, word in enumerate(words):
        side = _side(words, i, closing, spacing)
        to_last = i > 0 and (side in ("left", "both") or never_spaced(words[i - 1], word))
        result.append(to_next or to_last)
        to_next = side in ("right", "both")
    return result


def never_spaced(left: str, right: str) -> bool:
    """Return whether a space between two tokens would be a token, or end an elided word."""
    if " " in (left, right) or STARTS_UNSPACED.match(left) or STARTS_UNSPACED.match(right):
        return True
    return left[-1:] in ("'", "’") and right[:1].isalpha() and bool(_ELIDED.fullmatch(left))


def usual_spacing(texts: Iterable[Iterable[tuple[str, bool]]]) -> dict[str, str]:
    """Return on which side texts attach each symbol, where that is not the common one.

    French has spaces around most marks, for example, and German one before "%".

    Args:
        texts: the tokens of each text, and whether a space is before each.
    """
    spaces: defaultdict[str, Counter[tuple[str, bool]]] = defaultdict(Counter)
    for text in texts:
        tokens = [("a", True), *text, ("a", True)]
        neighbours = zip(tokens, tokens[1:], tokens[2:], strict=False)
        for (last, _), (word, before), (following, after) in neighbours:
            if word[0].isalnum() or not _SYMBOL.fullmatch(word):
                continue
            after_word, before_word = last[-1].isalnum(), following[0].isalnum()
            # Two symbols without a space say nothing: it may be either that is attached.
            if (after_word or before) and (before_word or after):
                spaces[word]["before", before] += after_word
                spaces[word]["after", after] += before_word
    usual = {}
    for word, counts in sorted(spaces.items()):
        side = _SIDES.get((_usually(counts, "before"), _usually(counts, "after")))
        # A quotation mark is attached to the quotation, unless it never is.
        known = side != "none" if word in _CLOSING else side == _side([word], 0, [], {})
        if side and not known:
            usual[word] = side
    return usual


def _usually(counts: Counter[tuple[str, bool]], where: str) -> bool | None:
    """Return whether there is usually a space, or None if that cannot be told."""
    yes, no = counts[where, True], counts[where, False]
    frequent = max(yes, no) >= max(MIN_COUNT, MIN_SHARE * (yes + no))
    return yes > no if frequent else None


def _side(words: Sequence[str], i: int, closing: list[str], spacing: Mapping[str, str]) -> str:
    """Return the side on which words[i] is attached; `closing` is updated."""
    word, last = words[i], words[i - 1] if i else ""
    if word[:1].isalnum():
        return "none"
    if word in spacing:
        return spacing[word]
    if closing and word in closing[-1]:
        closing.pop()
        return "left"
    if word in _CLOSING and _opens(words, i):
        closing.append(_CLOSING[word])
        return "right"
    after_quotation = last in ("“", "”", '"', "»", "«") or _IS_CLITIC.fullmatch(last)
    if word in _TO_BOTH or (word[:1] == "-" and after_quotation):  # „Open“-Schild
        return "both"
    if word in _TO_LEFT or word[:1] in (".", "!", "?", "…") or _IS_CLITIC.fullmatch(word):
        return "left"
    if word in _CLOSING or word in ("’", "”"):
        return "left" if last else "right"
    return "right" if word in _TO_RIGHT else "none"


def _opens(words: Sequence[str], i: int) -> bool:
    """Return whether a quotation mark opens a quotation: another mark closes it."""
    later = [j for j in range(i + 1, len(words)) if words[j] in _CLOSING[words[i]]]
    if words[i] != "'" or not i:
        return bool(later)
    # The apostrophe after a plural ends a word, "the girls' room", unless a quotation follows.
    plurals = [j for j in (i, *later) if _PLURAL.fullmatch(words[j - 1])]
    return bool(later) and len(plurals) <= len(later)
