"""The tokenizer of all captions: for training, references and results. It does not know word ids.

It writes Penn Treebank tokens in lower case without punctuation, as COCO's evaluation counts them.
COCO runs Stanford's Java tokenizer (PTBTokenizer 3.4.1). The regular expression below gives the
same words for all but 2 of the 25,014 captions of COCO val2017 (`pytest -m data tests/text`
compares with Java). The remaining differences:

* Brackets are removed. COCO intends to remove them, but it changes them to lower case and then
  searches for "-LRB-", so its words contain "-lrb-". These are the 2 captions. "!!" and "?!", which
  COCO's list of punctuation lacks, are removed too.
* Java sees capitals and, after the end of the line, the next caption: "AT&T" is one word and "at&t"
  is three, and an initial ends a sentence before "A" or "The". Here each caption is tokenized alone
  and in lower case, since otherwise `tokenize(detokenize(words))` could differ from `words`:
  "at&t" is three words, and a letter loses its dot at the end and before "a", "an" and "the".
"""

from __future__ import annotations

import re
from collections.abc import Iterable

TOKENIZER_VERSION = "treebank-coco-2"
"""A part of every metric signature. Change it whenever `tokenize` changes for any caption."""

_ABBREVIATED = """
    jan feb mar apr jun jul aug sep sept oct nov dec mon tue tues wed thu thurs fri
    ala ariz calif colo conn ct dak fla ga ind kan kans ky md mich minn mo mont neb nev okla penn
    tenn va vt wis wisc wyo
    adj adm adv asst atty attys brig capt cmdr col comdr cpl det dr drs ens esq gen gov govs hon
    insp jr lieut lt maj messrs mlle mme mr mrs ms msgr pfc pres prof profs pvt rep reps rev sen
    sens sfc sgt spc sr supt supts
    ave blvd ft mt rd rt st ste
    assn assoc bancorp bhd bldg bros cie co corp cos dept elec inc intl invt ltd mfg mtg natl plc
    ppty pptys pte ptes pty ptys sys univ
    al cf est etc ext jos ph seq sq tel treas vs wm
"""
ABBREVIATIONS = frozenset(f"{word}." for word in _ABBREVIATED.split())
"""Words that keep their dot at any position, as in Stanford's tokenizer: "St." ends no sentence."""

_CHAR = r"[^\s\x00-/:-@\[-^`{-\x7f“”„«»…–—]"  # letters, digits, accents of all scripts
_LETTER = rf"(?:(?!\d){_CHAR})"
_END = rf"(?!{_CHAR})"
_CLITIC = rf"'(?:s|m|d|t|ll|re|ve|em|till?|n'?|\d0s){_END}"
_WORD = re.compile(
    rf"""
    -[lr][rcs]b-                                  # a bracket of the Treebank: matched, not kept
  | (  [a-z](?:\.[a-z])+\.?{_END}(?:-{_CHAR}+)*   # t.v. u.s.-made
    |  [a-z]\.(?=[ ](?!(?:an?|the){_END})\w)      # the initial of "john a. noble"
    |  (?:{"|".join(word[:-1] for word in sorted(ABBREVIATIONS))})\.{_END}
    |  (?:art|ca|figs?|nos?|op|pp|prop)\.(?=[ ]?\d)
    |  (?:can(?=not{_END})|gim(?=me{_END})|gon(?=na{_END})|got(?=ta{_END})
         |lem(?=me{_END})|wan(?=na{_END}))
    |  {_LETTER}+(?=n't{_END}) | n't{_END} | {_CLITIC}
    |  (?:\d+(?:[.,:]\d+)+|(?<!\S)[-+]\d+|(?<!\w)\.\d+)(?:-{_CHAR}+)*  # 3,000 5:54 3.5-inch -5 .5
    |  [#]{_LETTER}{_CHAR}*                       # #love
       # dog t-shirt and/or dallas.com o'clock
    |  {_CHAR}+(?:(?:[-/]|(?<!\d)(?:\.|(?!{_CLITIC})')(?!\d)){_CHAR}+)*
    |  [#$%&*+/<=>@\\^|~]
    )""",
    re.VERBOSE,
)
# Text that needs no Treebank rules: letters, spaces and a final dot.
_PLAIN = re.compile(r"(?!.*\b(?:cannot|gimme|gonna|gotta|lemme|wanna)\b)[a-z ]*\.?")
# The space before a clitic, as in "does n't" and "man 's".
_CLITIC_SPACE = re.compile(
    r"(?<!\S)([a-z]+) (?=n't(?!\S))|(?<=[a-z]) (?='(?:s|m|d|ll|re|ve)(?!\S))"
)


def tokenize(caption: str) -> list[str]:
    """Return the lower-case words of a caption: "A dog's bowl." -> a, dog, 's, bowl."""
    text = " ".join(caption.lower().split())
    if _PLAIN.fullmatch(text) and text.rpartition(" ")[2] not in ABBREVIATIONS:
        return text.removesuffix(".").split()  # nine of ten captions: the same words, faster
    return _tokenize_treebank(text)


def detokenize(words: Iterable[str]) -> str:
    """Return words as a readable caption that `tokenize` splits into the same words."""
    return _CLITIC_SPACE.sub(r"\1", " ".join(words))


def _tokenize_treebank(text: str) -> list[str]:
    """Return the words of a lower-case text whose only white space is single spaces."""
    text = text.replace("‘", "'").replace("’", "'").replace("&amp;", "&")
    return [word for word in _WORD.findall(text) if word]
