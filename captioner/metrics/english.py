"""Stems and synsets of English words from nltk, on any machine.

WordNet is used if its data is installed; data that is empty or broken is told, not used.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

from captioner.console import console
from captioner.errors import CaptionerError

_WAY_OUT = "python -m nltk.downloader wordnet installs it again"


def english_stem() -> Callable[[str], str]:
    """Return a function that stems a word: the Porter2 stemmer."""
    with _home_folder():
        from nltk.stem.snowball import EnglishStemmer  # importing nltk takes a second

    stem: Callable[[str], str] = EnglishStemmer().stem
    return stem


@contextmanager
def _home_folder() -> Iterator[None]:
    """Set HOME within the block if this user has none: nltk cannot be imported without it."""
    if os.path.expanduser("~") != "~":
        yield
        return
    os.environ["HOME"] = tempfile.gettempdir()
    try:
        yield
    finally:
        del os.environ["HOME"]


class WordNet:
    """The synsets of words."""

    def __init__(self, reader: Any) -> None:
        """Use nltk's reader, whose files can be read."""
        self._reader = reader

    def synsets(self, word: str) -> list[str]:
        """Return the names of the synsets of a word, for example "dog.n.01".

        Raises:
            CaptionerError: the files are damaged.
        """
        try:
            return [synset.name() for synset in self._reader.synsets(word)]
        except Exception as error:  # nltk documents none for damaged files
            raise CaptionerError(
                f"nltk's WordNet is damaged ({_reason(error)}, for {word!r}): {_WAY_OUT}; "
                "without it, METEOR goes on with equal words and stems"
            ) from error


def load_wordnet() -> WordNet | None:
    """Return WordNet, or None without its data; that it is empty or broken is told."""
    with _home_folder():
        from nltk.corpus import wordnet

    try:
        wordnet.ensure_loaded()
        if wordnet.synsets("dog"):
            return WordNet(wordnet)
        reason = "it is empty"
    except LookupError:  # not installed
        return None
    except Exception as error:  # nltk documents none for damaged files
        reason = _reason(error)
    _tell(reason)
    return None


@cache
def _tell(reason: str) -> None:
    """Say why WordNet cannot be used: once, though many data sets are scored."""
    console.print(
        f"captioner: nltk's WordNet cannot be used ({reason}), so METEOR has no synonyms: "
        f"{_WAY_OUT}",
        markup=False,
    )


def _reason(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
