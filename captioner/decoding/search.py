"""From decoding settings to a search: words become token ids, and settings become rules."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from typing import assert_never

import torch
from torch import Tensor

from captioner.config.schema import DecodingConfig
from captioner.decoding.constraints import (
    Rule,
    apply_rules,
    forbid,
    min_length,
    no_double_words,
    no_repeat_ngram,
    no_repeat_words,
    require,
)
from captioner.errors import UsageError, parameter
from captioner.text.tokenizer import BOS, EOS, SUPPRESSED, Vocabulary, tokenize
from captioner.types import Hypothesis, State, Step, select_state

Search = Callable[[State, Sequence[int]], list[list[Hypothesis]]]
"""(state of B images, B image keys if captions are sampled) -> captions of each image.

The captions of an image are ranked, the best first; sampled ones are in the order of sampling."""

_FUNCTION_WORDS = (
    "a an the and or but of in on at to by for from with without into onto over under up down off "
    "out near next behind front through around along above below between across against while as "
    "that which who is are was were be being been has have having his her its their it he she they "
    "him them one two other another some very 's"
)
"""English words that a caption often needs twice: `no_repeat_words` does not apply to them."""


def build_search(step: Step, config: DecodingConfig, vocabulary: Vocabulary) -> Search:
    """Return the search that `config` describes. It never generates <unk>, <pad> or <bos>.

    Raises:
        UsageError: a word of `prefix` or `require` is not in the vocabulary or is also forbidden,
            or `max_length` has no room for them.
    """
    prefix = _token_ids(tokenize(config.prefix), vocabulary, "prefix")
    required = _token_ids(_single_words(config.require, "require"), vocabulary, "require")
    required = [token for token in required if token not in prefix]
    to_forbid = _single_words(config.forbid, "forbid")
    forbidden = [vocabulary.id_of(word) for word in to_forbid if word in vocabulary]
    _check_needed([*prefix, *required], forbidden, config, vocabulary)
    rules = _rules(config, forbidden, required, vocabulary)

    def search(state: State, image_keys: Sequence[int]) -> list[list[Hypothesis]]:
        constrained_step, state = apply_rules(step, state, rules, eos=EOS, prefix=prefix)
        match config.method:
            case "sample":
                return _sample(constrained_step, state, image_keys, config)
            case "beam":
                return _beam_search(constrained_step, state, required, config)
            case other:
                assert_never(other)

    return search


def _check_needed(
    needed: Sequence[int], forbidden: Sequence[int], config: DecodingConfig, vocabulary: Vocabulary
) -> None:
    """Raise a UsageError if tokens of `prefix` and `require` are forbidden, or too many."""
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


def _rules(
    config: DecodingConfig,
    forbidden: Sequence[int],
    required: Sequence[int],
    vocabulary: Vocabulary,
) -> list[Rule]:
    rules = [forbid([*SUPPRESSED, *forbidden])]
    if config.min_length:
        rules.append(min_length(config.min_length, eos=EOS))
    if required:
        rules.append(require(required, eos=EOS, max_length=config.max_length))
    if config.no_repeat_ngram:
        rules.append(no_repeat_ngram(config.no_repeat_ngram))
    if config.no_double_words:
        rules.append(no_double_words)
    if config.no_repeat_words:
        words = [word for word in _FUNCTION_WORDS.split() if word in vocabulary]
        rules.append(no_repeat_words([vocabulary.id_of(word) for word in words]))
    return rules


def _beam_search(
    step: Step, state: State, required: Sequence[int], config: DecodingConfig
) -> list[list[Hypothesis]]:
    slots = -(-max(config.beam, config.captions) // config.groups)  # of a group, rounded up
    slots = max(slots, len(required) + 1)  # a slot for each bank of dynamic beam allocation
    num_beams = slots * config.groups
    if num_beams == 1:
        from captioner.decoding.sampling import greedy

        captions = greedy(step, state, bos=BOS, eos=EOS, max_length=config.max_length)
        return [[caption] for caption in captions]
    from captioner.decoding.beam import beam_search

    return beam_search(
        step,
        state,
        bos=BOS,
        eos=EOS,
        max_length=config.max_length,
        num_beams=num_beams,
        num_captions=config.captions,
        length_norm=_length_norm(config),
        num_groups=config.groups,
        diversity=config.diversity,
        required=required,
    )


def _length_norm(config: DecodingConfig) -> Callable[[int], float]:
    from captioner.decoding.beam import average_norm, no_norm, wu_norm

    match config.length_norm:
        case "none":
            return no_norm
        case "average":
            return average_norm
        case "wu":
            return wu_norm(config.length_alpha)
        case other:
            assert_never(other)


def _sample(
    step: Step, state: State, image_keys: Sequence[int], config: DecodingConfig
) -> list[list[Hypothesis]]:
    from captioner.decoding.sampling import sample

    device, count = state[0].device, config.captions
    rows = torch.arange(len(image_keys), device=device).repeat_interleave(count)
    captions = sample(
        step,
        select_state(state, rows),
        bos=BOS,
        eos=EOS,
        uniforms=torch.cat([_uniforms(config, key) for key in image_keys]).to(device),
        temperature=config.temperature,
        top_k=config.top_k,
        top_p=config.top_p,
    )
    return [captions[start : start + count] for start in range(0, len(captions), count)]


def image_key(image: Tensor) -> int:
    """Return a number computed from the pixels of an image, from which its samples are seeded."""
    return zlib.crc32(image.cpu().numpy().tobytes())


def _uniforms(config: DecodingConfig, image_key: int) -> Tensor:
    """Return (captions, max_length) random numbers in [0, 1).

    They depend on the seed and the image only, not on the other images of the batch.
    """
    generator = torch.Generator().manual_seed(zlib.crc32(f"{config.seed} {image_key}".encode()))
    return torch.rand(config.captions, config.max_length, generator=generator)


def _single_words(texts: Sequence[str], setting: str) -> list[str]:
    """Return the tokenized word of each text, without duplicates.

    Raises:
        UsageError: a text is not exactly one word.
    """
    for text in texts:
        if len(tokenize(text)) != 1:
            raise UsageError(
                f"{parameter(setting)}: '{text}' is not one word: list each word separately"
            )
    return list(dict.fromkeys(word for text in texts for word in tokenize(text)))


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
