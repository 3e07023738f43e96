"""From text to token ids: `tokenize`, used for all captions, and the `Vocabulary` of a model.

A vocabulary stores its `Tokenizer`: how its text is divided into tokens. Captions have `tokenize`;
those for the text of any language are in multilingual.py, which is imported only where needed.

`tokenize` returns Penn Treebank tokens in lower case without punctuation, as COCO's tool counts
them. COCO runs Stanford's Java tokenizer (PTBTokenizer 3.4.1). The regular expression below gives
the same words for all but 2 of the 25,014 captions of COCO val2017 (`pytest -m data tests/text`
compares with Java). The remaining differences:

* Brackets are removed. COCO intends to remove them, but it changes them to lower case and then
  searches for "-LRB-", so its words contain "-lrb-". These are the 2 captions. "!!" and "?!", which
  COCO's list of punctuation lacks, are removed too.
* In Java, the result depends on capitals and on the next caption: "AT&T" is one word and "at&t" is
  three, and an initial ends a sentence before "A" or "The". Here each caption is tokenized alone
  and in lower case, since otherwise `tokenize(detokenize(words))` could differ from `words`:
  "at&t" is three words, and a letter loses its dot at the end and before "a", "an" and "the".
* In text that is not ASCII, all punctuation is removed; Java keeps some of it, such as "¿" and "।",
  as words. In scripts without spaces each character is a word: see scripts.py.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from captioner.errors import UsageError

if TYPE_CHECKING:  # it imports pydantic
    from captioner.config.schema import TokenizerName

TOKENIZER_VERSION = "treebank-coco-3"
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
"""Words that keep their dot at any position, as in Stanford's tokenizer; no sentence ends there."""

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
        return text.removesuffix(".").split()  # nine of ten captions; the same result, faster
    if not text.isascii():
        from captioner.text.scripts import separate  # imports `regex`, which English does not need

        text = " ".join(separate(text).split())
    return _tokenize_treebank(text)


def detokenize(words: Iterable[str]) -> str:
    """Return words as a readable caption that `tokenize` splits into the same words.

    Characters of scripts without spaces have none between them: 犬 が -> 犬が.
    """
    words = list(words)
    text = _CLITIC_SPACE.sub(r"\1", " ".join(words))
    if text.isascii():
        return text
    from captioner.text.scripts import join

    unspaced = _CLITIC_SPACE.sub(r"\1", join(words))
    # Rarely, two tokens without a space are one character: keep all spaces then.
    return unspaced if tokenize(unspaced) == words else text


def _tokenize_treebank(text: str) -> list[str]:
    """Return the words of a lower-case text whose only white space is single spaces."""
    text = text.replace("‘", "'").replace("’", "'").replace("&amp;", "&")
    return [word for word in _WORD.findall(text) if word]


class Tokenizer(Protocol):
    """Tokenizes a text, and detokenizes tokens.

    `tokenize(detokenize(words)) == words` holds for all `words` that `tokenize` returns.
    """

    kind: ClassVar[TokenizerName]

    def tokenize(self, text: str) -> list[str]:
        """Return the tokens of a text."""

    def detokenize(self, words: Iterable[str], copied: Collection[int] = ()) -> str:
        """Return tokens as a readable text that `tokenize` divides into the same tokens.

        `copied` are the positions of words of another text: they keep their spelling.
        """

    def to_json(self) -> dict[str, Any]:
        """Return all that `multilingual.tokenizer_from_json` needs: {"kind": ..., ...}."""


class CaptionTokenizer:
    """The words of a caption: the functions `tokenize` and `detokenize`."""

    kind: ClassVar[TokenizerName] = "caption"

    def tokenize(self, text: str) -> list[str]:
        """Return the lower-case words of a caption."""
        return tokenize(text)

    def detokenize(self, words: Iterable[str], copied: Collection[int] = ()) -> str:
        """Return words as a readable caption; all keep their spelling."""
        return detokenize(words)

    def to_json(self) -> dict[str, Any]:
        """Return the kind: there is nothing else to store."""
        return {"kind": self.kind}


CAPTION_TOKENIZER = CaptionTokenizer()

PAD, BOS, EOS, UNK = range(4)
SUPPRESSED = (PAD, BOS, UNK)  # decoding never generates these
SPECIALS = ("<pad>", "<bos>", "<eos>", "<unk>")
FORMAT = 1  # of the vocabulary file


class Vocabulary:
    """The words of a model: a word's index is its id, and the first four are `SPECIALS`.

    `tokenizer` divides text into these words; `words` are tokens of any kind.
    """

    def __init__(self, words: Sequence[str], tokenizer: Tokenizer = CAPTION_TOKENIZER) -> None:
        """Store all words in the order of their ids.

        Raises:
            ValueError: the first words are not `SPECIALS`, or a word appears twice.
        """
        if tuple(words[: len(SPECIALS)]) != SPECIALS:
            raise ValueError(f"the first words are not {', '.join(SPECIALS)}")
        if repeated := [word for word, count in Counter(words).items() if count > 1]:
            raise ValueError(f"{len(repeated)} words appear twice, the first is {repeated[0]!r}")
        self.words = tuple(words)
        self.tokenizer = tokenizer
        # Specials are left out: the text "<eos>" in a caption is an unknown word, not its end.
        self._ids = {word: index for index, word in enumerate(self.words) if index >= len(SPECIALS)}

    @classmethod
    def from_captions(
        cls,
        captions: Iterable[Sequence[str]],
        min_count: int = 5,
        tokenizer: Tokenizer = CAPTION_TOKENIZER,
    ) -> Vocabulary:
        """Return the words that occur at least `min_count` times, the most frequent first.

        Args:
            captions: tokenized captions.
            min_count: rarer words become <unk>.
            tokenizer: what tokenized them; it is stored with the words.
        """
        return cls(SPECIALS, tokenizer).extended(captions, min_count)

    def extended(self, captions: Iterable[Sequence[str]], min_count: int = 5) -> Vocabulary:
        """Return a vocabulary with the frequent words of more captions appended.

        Existing words keep their ids, so that trained weights stay valid.
        """
        counts = Counter(word for caption in captions for word in caption)
        return self.with_counted(counts, min_count)

    def with_counted(self, counts: Mapping[str, int], min_count: int) -> Vocabulary:
        """Return `extended` for texts whose words are counted already."""
        known = set(self.words)
        new = [word for word, count in counts.items() if count >= min_count and word not in known]
        new.sort(key=lambda word: (-counts[word], word))
        return Vocabulary([*self.words, *new], self.tokenizer)

    def encode(self, words: Sequence[str], max_length: int | None = None) -> list[int]:
        """Return <bos>, the ids of the words, and <eos>; unknown words become <unk>.

        At most `max_length` words are kept, <bos> and <eos> not counted.
        """
        return [BOS, *self.encode_source(words, max_length), EOS]

    def encode_source(self, words: Sequence[str], max_length: int | None = None) -> list[int]:
        """Return the ids of the first `max_length` words, without <bos> and <eos>.

        An encoder reads a source text whole, so it needs no sign of its start and its end.
        """
        return [self._ids.get(word, UNK) for word in words[:max_length]]

    def id_of(self, word: str) -> int:
        """Return the id of a word. The specials do not count as words.

        Raises:
            KeyError: the word is not in the vocabulary.
        """
        return self._ids[word]

    def decode(self, ids: Iterable[int]) -> list[str]:
        """Return the words of ids before the first <eos>, without specials."""
        words = []
        for index in ids:
            if index == EOS:
                break
            if index >= len(SPECIALS):
                words.append(self.words[index])
        return words

    def __len__(self) -> int:
        return len(self.words)

    def __contains__(self, word: object) -> bool:
        """Return whether a word has an id; specials do not count as words."""
        return word in self._ids

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Vocabulary):
            return NotImplemented
        return self.words == other.words and self._tokenizer_json == other._tokenizer_json

    def __hash__(self) -> int:
        return hash(self.words)

    def __repr__(self) -> str:
        return f"Vocabulary({len(self)} words, {self.digest[:8]})"

    @property
    def digest(self) -> str:
        """The SHA-256 of all words in order and of the tokenizer, in hexadecimal.

        A model's config stores it, so that a vocabulary that does not fit the weights is detected.
        The caption tokenizer adds nothing: digests from before there were others stay the same.
        """
        text = "\n".join(self.words)
        if values := self._tokenizer_json:
            text += "\0" + json.dumps(values, sort_keys=True)
        return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()

    @property
    def _tokenizer_json(self) -> dict[str, Any]:
        """What the file stores of the tokenizer: nothing if it is that of captions."""
        values = self.tokenizer.to_json()
        return {} if values == CAPTION_TOKENIZER.to_json() else values

    def save(self, path: str | Path) -> None:
        """Write the words as JSON, one on each line, so that `diff` can compare two files."""
        content: dict[str, Any] = {"format": FORMAT, "words": self.words}
        if values := self._tokenizer_json:
            content["tokenizer"] = values
        text = json.dumps(content, indent=0)
        Path(path).write_text(text + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: str | Path) -> Vocabulary:
        """Read a file that `save` wrote.

        Raises:
            UsageError: the file cannot be read or is not a vocabulary.
        """
        try:
            content = json.loads(Path(path).read_text(encoding="utf-8-sig"))
            return cls(_words(content), _tokenizer(content))
        except OSError as error:
            raise UsageError(
                f"{path}: cannot read the vocabulary: {error.strerror or error}; check the path"
            ) from error
        except UsageError as error:  # the tokenizer cannot be built
            raise UsageError(f"{path}: {error}") from error
        except ValueError as error:  # not UTF-8, not JSON, or not a vocabulary
            raise UsageError(
                f"{path}: not a vocabulary file: {error}; copy it again from its model folder"
            ) from error


def _words(content: object) -> list[str]:
    """Return the words in the content of a vocabulary file, or raise a ValueError."""
    if not isinstance(content, dict) or "words" not in content:
        raise ValueError('expected {"format": 1, "words": [...]}')
    if content.get("format") != FORMAT:
        raise ValueError(
            f"format {content.get('format')!r}, but this version of captioner reads format {FORMAT}"
        )
    words = content["words"]
    if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
        raise ValueError('"words" is not a list of strings')
    return words


def _tokenizer(content: dict[str, Any]) -> Tokenizer:
    """Return the tokenizer in the content of a vocabulary file; without one, that of captions."""
    if "tokenizer" not in content:
        return CAPTION_TOKENIZER
    from captioner.text.multilingual import tokenizer_from_json  # captioning does not need `regex`

    return tokenizer_from_json(content["tokenizer"])
