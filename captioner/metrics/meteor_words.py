"""What METEOR 1.5 for English knows of words: normal form, function words, stems and synonyms.

The lists are read from the METEOR that pycocoevalcap installs, or from the folder that the variable
CAPTIONER_METEOR names: `meteor-1.5.jar` has the function words, and WordNet as METEOR uses it, and
`data/paraphrase-en.gz` the paraphrases. Without them, or if the variable is "off", the function
words are those below, and synonyms come from the WordNet of nltk if its data is installed.
"""

from __future__ import annotations

import importlib.util
import os
import re
import struct
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from captioner.errors import UsageError

PROGRAM, TABLE = "meteor-1.5.jar", "data/paraphrase-en.gz"
VARIABLE, OFF = "CAPTIONER_METEOR", "off"

_FREQUENT = """
    1 2 a about after all also an and any are as at back be because been but by could do first for
    from get go good had has have he her him his how i if in into is it its just know like make me
    more most much my new no not now of on one only or other our out over people said see she so
    some than that the their them then there these they think this time to two up us very want was
    way we well were what when where which who will with would you your
    'd 'll 'm 're 's 've can n't '
"""
FUNCTION_WORDS = frozenset(_FREQUENT.split())
"""English words with a frequency above 1 in 1,000 in wordfreq 3.1 (Speer 2022), and contractions.

They are used if METEOR's own list is not installed. METEOR 1.5 uses the same threshold (Denkowski
and Lavie 2011) on another corpus. Its list also has punctuation, "last", "year" and "years", and
lacks some thirty words of spoken English, for example "my", "good", "back" and "very"."""


def find_meteor() -> Path | None:
    """Return the folder with METEOR's program and paraphrase table; None: it is not installed.

    Raises:
        UsageError: the variable CAPTIONER_METEOR names a folder that lacks a file.
    """
    named = os.environ.get(VARIABLE)
    if named == OFF:
        return None
    if named:
        if missing := _missing(Path(named)):
            raise UsageError(
                f"{VARIABLE} is {named!r}, and {missing} does not exist: name the folder that has "
                f"{PROGRAM} and {TABLE}, or set it to {OFF!r} for METEOR without paraphrases"
            )
        return Path(named)
    package = importlib.util.find_spec("pycocoevalcap")
    places = (package and package.submodule_search_locations) or ()
    folders = (Path(place, "meteor") for place in places)
    return next((folder for folder in folders if _missing(folder) is None), None)


def way_to_table() -> str:
    """Return what to do to have the paraphrase table, if there is none."""
    if os.environ.get(VARIABLE) == OFF:
        return f"unset the variable {VARIABLE}, which is {OFF!r}"
    return "pip install pycocoevalcap brings the table, which is read without Java"


def _missing(folder: Path) -> Path | None:
    return next((folder / name for name in (PROGRAM, TABLE) if not (folder / name).is_file()), None)


# --- Normal form: METEOR's option -norm, the rules of Moses' tokenizer for English. ---

_ACRONYM = re.compile(r"(?<!\S)\w(?:\.\w)*\.\w\.(?=\W|$)")  # u.s. -> us, but not "w." or "c.d"
_HYPHEN = re.compile(r"([^\W_])-{1,2}([^\W_])")  # each letter is read once: "bar-b-q" -> "bar b-q"
_SYMBOL = re.compile(r"([^\w\s.'`,\-’–—…½]|_)")  # a/b -> a / b
_COMMA = re.compile(r"(?<!\d),|,(?!\d)")  # 10,000 keeps its comma
_QUOTES = (
    (re.compile(r"([^a-z])'([^a-z])"), r"\1 ' \2"),
    (re.compile(r"([^a-z0-9])'([a-z])"), r"\1 ' \2"),  # the token 's -> ' s
    (re.compile(r"([a-z])'([^a-z])"), r"\1 ' \2"),
    (re.compile(r"([a-z])'([a-z])"), r"\1 '\2"),  # don't -> don 't
    (re.compile(r"(\d)'(s)"), r"\1 '\2"),  # 1990's -> 1990 's
)
_FINAL_DOT = re.compile(r"(?<=[^\s.])(\.+)$")
_PLAIN = re.compile(r"[a-z ]*")


def normalize(words: Iterable[str]) -> list[str]:
    """Return the words that METEOR sees in the tokens of a caption: "t-shirt" is two words."""
    text = " ".join(words)
    if _PLAIN.fullmatch(text):
        return text.split()  # nine of ten captions have letters only
    text = _ACRONYM.sub(lambda found: found[0].replace(".", ""), text)
    text = _HYPHEN.sub(r"\1 \2", text)
    text = _COMMA.sub(" , ", _SYMBOL.sub(r" \1 ", text))
    text = f" {text} "  # so that each quote has two neighbours
    for pattern, spaced in _QUOTES:
        text = pattern.sub(spaced, text)
    return _FINAL_DOT.sub(r" \1", text.strip()).split()


# --- Synonyms: words that share a synset of WordNet, after morphology. ---

_SUFFIXES = (
    *(("s", ""), ("ses", "s"), ("xes", "x"), ("zes", "z"), ("ches", "ch"), ("shes", "sh")),
    *(("men", "man"), ("ies", "y"), ("es", "e"), ("es", ""), ("ed", "e"), ("ed", "")),
    *(("ing", "e"), ("ing", ""), ("er", ""), ("est", ""), ("er", "e"), ("est", "e")),
)
"""WordNet's rules of detachment, in order. Here the first that gives a word of WordNet counts."""


class Synonyms:
    """The synsets of words, from the dictionary inside METEOR's program."""

    def __init__(self, synsets: Mapping[str, str], exceptions: Mapping[str, list[str]]) -> None:
        """Store the synsets of each word, separated by spaces, and the bases of irregular forms."""
        self._synsets, self._exceptions = synsets, exceptions

    def __call__(self, word: str) -> list[str]:
        """Return the names of the synsets of a word and of its base form."""
        return [name for form in self._forms(word) for name in self._synsets.get(form, "").split()]

    def _forms(self, word: str) -> list[str]:
        if word in self._exceptions:
            return [word, *self._exceptions[word]]  # "men" -> "man": no rule is tried
        if len(word) > 2 and not word.endswith("ss"):
            for suffix, ending in _SUFFIXES:
                base = word.removesuffix(suffix) + ending
                if word.endswith(suffix) and base in self._synsets:
                    return [word, base]
        return [word]


@cache  # 150,000 words: 0.2 s
def read_synonyms(folder: Path) -> Synonyms:
    """Return the synonyms of the METEOR in `folder`."""
    exceptions: dict[str, list[str]] = {}
    for base, forms in _read_pairs(folder, "synonym/english.exceptions"):
        for form in forms.split():
            exceptions.setdefault(form, []).append(base)
    return Synonyms(dict(_read_pairs(folder, "synonym/english.synsets")), exceptions)


@cache
def read_function_words(folder: Path) -> frozenset[str]:
    """Return the function words of the METEOR in `folder`."""
    return frozenset(_read_lines(folder, "function/english.words"))


def _read_pairs(folder: Path, name: str) -> list[tuple[str, str]]:
    lines = _read_lines(folder, name)
    with check_readable(folder / PROGRAM):
        return list(zip(lines[::2], lines[1::2], strict=True))


def _read_lines(folder: Path, name: str) -> list[str]:
    path = folder / PROGRAM
    with check_readable(path), zipfile.ZipFile(path) as program:
        return program.read(name).decode().splitlines()


_DAMAGE = (OSError, EOFError, ValueError, KeyError, RuntimeError, struct.error)
"""What zipfile and gzip raise for damaged files, beside their own errors."""


@contextmanager
def check_readable(path: Path) -> Iterator[None]:
    """Turn the errors of a block that reads one of METEOR's files into one that says what to do.

    Raises:
        UsageError: the file is damaged.
    """
    try:
        yield
    except (*_DAMAGE, zipfile.BadZipFile, zlib.error) as error:
        raise UsageError(
            f"METEOR cannot read {path} ({error}): install it again: "
            "pip install --force-reinstall --no-deps pycocoevalcap; "
            f"{VARIABLE}={OFF} is METEOR without this file"
        ) from error
