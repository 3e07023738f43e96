"""From the words of decoding settings to token ids. Imports neither torch nor pydantic."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple, Protocol

from captioner.errors import UsageError, parameter

if TYPE_CHECKING:
    from captioner.text.tokenizer import Vocabulary


class WordSettings(Protocol):
    """The settings that name words, and the room for them."""

    @property
    def prefix(self) -> str:
        """Captions start with this text."""

    @property
    def require(self) -> Sequence[str]:
        """Captions hold these words."""

    @property
    def forbid(self) -> Sequence[str]:
        """Captions hold none of these words."""

    @property
    def max_length(self) -> int:
        """The most words of a caption."""


class SettingTokens(NamedTuple):
    """The token ids that decoding settings name."""

    prefix: list[int]
    required: list[int]  # without those of the prefix
    forbidden: list[int]


def setting_tokens(config: WordSettings, vocabulary: Vocabulary) -> SettingTokens:
    """Return the token ids of the words in `prefix`, `require` and `forbid`.

    Words to forbid that are not in the vocabulary are left out.

    Raises:
        UsageError: a word of `prefix` or `require` is not in the vocabulary or is also forbidden,
            or `max_length` has no room for them.
    """
    prefix = _token_ids(vocabulary.tokenizer.tokenize(config.prefix), vocabulary, "prefix")
    required_words = _single_words(config.require, vocabulary, "require")
    required = _token_ids(required_words, vocabulary, "require")
    required = [token for token in required if token not in prefix]
    to_forbid = _single_words(config.forbid, vocabulary, "forbid")
    forbidden = [vocabulary.id_of(word) for word in to_forbid if word in vocabulary]
    needed = [*prefix, *required]
    if both := sorted({*needed} & {*forbidden}):
        raise UsageError(
            f"'{vocabulary.words[both[0]]}' is forbidden, but {parameter('prefix')} or "
            f"{parameter('require')} needs it: remove it from one of them"
        )
    if len(needed) > config.max_length:
        raise UsageError(
            f"{parameter('max_length')} ({config.max_length} words) has no room for "
            f"{parameter('prefix')} and {parameter('require')} ({len(needed)} words): raise it"
        )
    return SettingTokens(prefix, required, forbidden)


def check_tokens_are_words(setting: str, vocabulary: Vocabulary) -> None:
    """Raise a UsageError if a setting about words is used with tokens that are parts of words."""
    if (kind := vocabulary.tokenizer.kind) in ("character", "subword"):
        raise UsageError(
            f"{parameter(setting)} is about words, but the tokens of this model are {kind}s: "
            f"leave it out, or set {parameter('no_repeat_ngram')}"
        )


def _single_words(texts: Sequence[str], vocabulary: Vocabulary, setting: str) -> list[str]:
    """Return the tokenized word of each text, without duplicates.

    Raises:
        UsageError: a text is not exactly one word.
    """
    words = [vocabulary.tokenizer.tokenize(text) for text in texts]
    for text, tokens in zip(texts, words, strict=True):
        if len(tokens) != 1:
            parts = f"{len(tokens)} tokens of this model ({' '.join(tokens)})"
            why = f" but {parts}" if tokens else ""
            raise UsageError(
                f"{parameter(setting)}: '{text}' is not one word{why}: list single tokens"
            )
    return list(dict.fromkeys(word for [word] in words))


def _token_ids(words: Sequence[str], vocabulary: Vocabulary, setting: str) -> list[int]:
    """Return the ids of words.

    Raises:
        UsageError: a word is not in the vocabulary; the message lists words of similar spelling.
    """
    for word in words:
        if word not in vocabulary:
            raise UsageError(
                f"{parameter(setting)}: '{word}' is not in the model's vocabulary: "
                f"{_suggestion(word, vocabulary)}"
            )
    return [vocabulary.id_of(word) for word in words]


def _suggestion(word: str, vocabulary: Vocabulary) -> str:
    import difflib

    similar = difflib.get_close_matches(word, vocabulary.words, n=3)
    return f"did you mean {', '.join(similar)}?" if similar else "remove it"
