"""From the settings of decoding to a search: words become ids here, and rules are chosen by their names."""

from __future__ import annotations

import difflib
import zlib
from collections.abc import Callable, Iterable, Sequence
from typing import assert_never

import torch
from torch import Tensor

from captioner.config.schema import DecodingConfig
from captioner.decoding.beam import Normalisation, average, beam_search, none, wu
from captioner.decoding.constraints import (
    Rule,
    at_least,
    forbid,
    no_double_words,
    no_repeated_ngram,
    obey,
    require,
)
from captioner.decoding.sampling import greedy, sample
from captioner.errors import UsageError
from captioner.text.tokenizer import tokenize
from captioner.text.vocabulary import BOS, EOS, SUPPRESSED, Vocabulary
from captioner.types import Hypothesis, State, Step, select_state

Search = Callable[[State, Sequence[int]], list[list[Hypothesis]]]
"""(states of images before the first word, their keys if captions are drawn) → captions: best first, or as drawn."""


def build_search(step: Step, config: DecodingConfig, vocabulary: Vocabulary) -> Search:
    """Make the search, which never says <unk>, <pad> or <bos> and obeys the config's rules.

    Raises:
        UsageError: the model does not know a word that captions should hold, or they have no room for all of them.
    """
    prefix = _ids(tokenize(config.prefix), vocabulary, "prefix")
    required = [
        word
        for word in _ids(_words(config.require, "require"), vocabulary, "require")
        if word not in prefix
    ]
    forbidden = [
        vocabulary.id_of(word) for word in _words(config.forbid, "forbid") if word in vocabulary
    ]
    if both := sorted({*prefix, *required} & {*forbidden}):
        raise UsageError(
            f"'{vocabulary.words[both[0]]}' is forbidden, and asked for by prefix or require"
        )
    if len(prefix) + len(required) > config.max_length:
        raise UsageError(
            f"max_length ({config.max_length} words) has no room for prefix and require "
            f"({len(prefix) + len(required)} words): raise it"
        )
    rules = _rules(config, forbidden, required)

    def search(state: State, keys: Sequence[int]) -> list[list[Hypothesis]]:
        obedient, state = obey(step, state, rules, eos=EOS, prefix=prefix)
        match config.method:
            case "sample":
                return _sample(obedient, state, keys, config)
            case "beam":
                return _beam(obedient, state, required, config)
            case other:
                assert_never(other)

    return search


def _rules(config: DecodingConfig, forbidden: Sequence[int], required: Sequence[int]) -> list[Rule]:
    rules = [forbid([*SUPPRESSED, *forbidden])]
    if config.min_length:
        rules.append(at_least(config.min_length, eos=EOS))
    if required:
        rules.append(require(required, eos=EOS, max_length=config.max_length))
    if config.no_repeat_ngram:
        rules.append(no_repeated_ngram(config.no_repeat_ngram))
    if config.no_double_words:
        rules.append(no_double_words)
    return rules


def _beam(
    step: Step, state: State, required: Sequence[int], config: DecodingConfig
) -> list[list[Hypothesis]]:
    width = -(-max(config.beam, config.captions) // config.groups)  # of a group
    if required:
        width = max(width, len(required) + 1)  # a place for each bank
    beam = width * config.groups
    if beam == 1:
        return [
            [best] for best in greedy(step, state, bos=BOS, eos=EOS, max_length=config.max_length)
        ]
    return beam_search(
        step,
        state,
        bos=BOS,
        eos=EOS,
        max_length=config.max_length,
        beam=beam,
        captions=config.captions,
        normalisation=_normalisation(config),
        groups=config.groups,
        diversity=config.diversity,
        required=required,
    )


def _normalisation(config: DecodingConfig) -> Normalisation:
    match config.length_norm:
        case "none":
            return none
        case "average":
            return average
        case "wu":
            return wu(config.length_alpha)
        case other:
            assert_never(other)


def _sample(
    step: Step, state: State, keys: Sequence[int], config: DecodingConfig
) -> list[list[Hypothesis]]:
    device, count = state[0].device, config.captions
    draws = torch.cat([_draws(config, key) for key in keys]).to(device)
    rows = torch.arange(len(keys), device=device).repeat_interleave(count)
    found = sample(
        step,
        select_state(state, rows),
        bos=BOS,
        eos=EOS,
        draws=draws,
        temperature=config.temperature,
        top_k=config.top_k,
        top_p=config.top_p,
    )
    return [found[start : start + count] for start in range(0, len(found), count)]


def key_of(image: Tensor) -> int:
    """Tell an image from others by its pixels, so that what is drawn for it does not hang on its company."""
    return zlib.crc32(image.cpu().numpy().tobytes())


def _draws(config: DecodingConfig, key: int) -> Tensor:
    """Random numbers that hang on the seed and the image alone, not on the images beside it."""
    generator = torch.Generator().manual_seed(zlib.crc32(f"{config.seed} {key}".encode()))
    return torch.rand(config.captions, config.max_length, generator=generator)


def _words(texts: Iterable[str], setting: str) -> list[str]:
    """Split what was asked for as captions are split; each must be one word.

    Raises:
        UsageError: one is none, or several.
    """
    words = []
    for text in texts:
        found = tokenize(text)
        if len(found) != 1:
            raise UsageError(f"{setting}: '{text}' is not one word: give each word on its own")
        words += found
    return list(dict.fromkeys(words))


def _ids(words: Sequence[str], vocabulary: Vocabulary, setting: str) -> list[int]:
    """Look words up.

    Raises:
        UsageError: the model does not know one; names words that are written alike.
    """
    for word in words:
        if word not in vocabulary:
            alike = difflib.get_close_matches(word, vocabulary.words, n=3)
            hint = f"; it knows {', '.join(alike)}" if alike else f" of its {len(vocabulary)}"
            raise UsageError(f"{setting}: the model does not know the word '{word}'{hint}")
    return [vocabulary.id_of(word) for word in words]
