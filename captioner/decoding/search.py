"""From decoding settings to a search: words become token ids, and settings become rules."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Protocol, assert_never

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
from captioner.decoding.words import check_tokens_are_words, setting_tokens
from captioner.text.tokenizer import BOS, EOS, PAD, SPECIALS, SUPPRESSED, UNK, Vocabulary
from captioner.types import Hypothesis, State, Step, select_state


class Search(Protocol):
    """What `build_search` returns."""

    def __call__(
        self, state: State, source_keys: Sequence[int], limits: Tensor | None = None
    ) -> list[list[Hypothesis]]:
        """Return the captions of each source: ranked, the best first, or in the order of sampling.

        Args:
            state: of B sources, before the first token.
            source_keys: if captions are sampled, a number for each source: see `source_key`.
            limits: (B,) the most tokens of a caption of each source: see `length_limits`; None:
                `max_length` for all.
        """
        ...


_FUNCTION_WORDS = (
    "a an the and or but of in on at to by for from with without into onto over under up down off "
    "out near next behind front through around along above below between across against while as "
    "that which who is are was were be being been has have having his her its their it he she they "
    "him them one two other another some very 's"
)
"""English words that a caption often needs twice: `no_repeat_words` does not apply to them."""


def build_search(step: Step, config: DecodingConfig, vocabulary: Vocabulary) -> Search:
    """Return the search that `config` describes. It never generates <pad> or <bos>.

    It generates <unk> only with `config.replace_unknown`: then a source word will replace it.

    Raises:
        UsageError: a word of `prefix` or `require` is not in the vocabulary or is also forbidden,
            or `max_length` has no room for them.
    """
    prefix, required, forbidden = setting_tokens(config, vocabulary)
    rules = _rules(config, forbidden, required, vocabulary)

    def search(
        state: State, source_keys: Sequence[int], limits: Tensor | None = None
    ) -> list[list[Hypothesis]]:
        if limits is None:
            limits = torch.full((state[0].shape[0],), config.max_length, device=state[0].device)
        constrained_step, state = apply_rules(
            step, state, rules, eos=EOS, limits=limits, prefix=prefix
        )
        max_length = int(limits.max())
        match config.method:
            case "sample":
                return _sample(constrained_step, state, source_keys, config, max_length)
            case "beam":
                return _beam_search(constrained_step, state, required, config, max_length)
            case other:
                assert_never(other)

    return search


def length_limits(source: Tensor, config: DecodingConfig) -> Tensor:
    """Return the most tokens (B,) of the captions of each source of a batch.

    It is `max_length` for an image, and for a text (B, P) `length_ratio` more for each token of it.
    """
    limits = torch.full((len(source),), config.max_length, device=source.device)  # (B,)
    if source.dim() == 2:  # token ids, not images or their features
        lengths = (source != PAD).sum(dim=1)  # (B,)
        limits += (config.length_ratio * lengths).long()
    return limits


def _rules(
    config: DecodingConfig,
    forbidden: Sequence[int],
    required: Sequence[int],
    vocabulary: Vocabulary,
) -> list[Rule]:
    suppressed = [token for token in SUPPRESSED if token != UNK or not config.replace_unknown]
    rules = [forbid([*suppressed, *forbidden])]
    if config.min_length:
        rules.append(min_length(config.min_length, eos=EOS))
    if required:
        rules.append(require(required, eos=EOS))
    if config.no_repeat_ngram:
        rules.append(no_repeat_ngram(config.no_repeat_ngram))
    if config.no_double_words:
        check_tokens_are_words("no_double_words", vocabulary)
        rules.append(no_double_words(unspaced_characters(vocabulary)))
    if config.no_repeat_words:
        check_tokens_are_words("no_repeat_words", vocabulary)
        # different source words may replace each <unk>
        exempt = [UNK, *function_words(vocabulary), *unspaced_characters(vocabulary)]
        rules.append(no_repeat_words(exempt))
    return rules


@lru_cache(maxsize=4)  # every call of `caption` builds a search
def function_words(vocabulary: Vocabulary) -> tuple[int, ...]:
    """Return the ids of the function words, in any case, and of punctuation and spaces."""
    is_caption = vocabulary.tokenizer.kind == "caption"
    english = {*_FUNCTION_WORDS.split()}
    return tuple(
        vocabulary.id_of(word)
        for word in vocabulary.words[len(SPECIALS) :]
        # the caption tokenizer leaves punctuation out: its "&" counts as a word
        if word.lower() in english or not (is_caption or word[:1].isalnum())
    )


@lru_cache(maxsize=4)
def unspaced_characters(vocabulary: Vocabulary) -> tuple[int, ...]:
    """Return the ids of characters of scripts without spaces: Chinese 慢慢 has one twice."""
    words = [word for word in vocabulary.words[len(SPECIALS) :] if not word.isascii()]
    if not words:
        return ()
    from captioner.text.scripts import is_unspaced

    return tuple(vocabulary.id_of(word) for word in words if is_unspaced(word))


def _beam_search(
    step: Step, state: State, required: Sequence[int], config: DecodingConfig, max_length: int
) -> list[list[Hypothesis]]:
    slots = -(-max(config.beam, config.captions) // config.groups)  # of a group, rounded up
    slots = max(slots, len(required) + 1)  # a slot for each bank of dynamic beam allocation
    num_beams = slots * config.groups
    if num_beams == 1:
        from captioner.decoding.sampling import greedy

        captions = greedy(step, state, bos=BOS, eos=EOS, max_length=max_length)
        return [[caption] for caption in captions]
    from captioner.decoding.beam import beam_search

    return beam_search(
        step,
        state,
        bos=BOS,
        eos=EOS,
        max_length=max_length,
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
    step: Step, state: State, source_keys: Sequence[int], config: DecodingConfig, max_length: int
) -> list[list[Hypothesis]]:
    from captioner.decoding.sampling import sample

    device, count = state[0].device, config.captions
    rows = torch.arange(len(source_keys), device=device).repeat_interleave(count)
    uniforms = [_uniforms(config, key, max_length) for key in source_keys]
    captions = sample(
        step,
        select_state(state, rows),
        bos=BOS,
        eos=EOS,
        uniforms=torch.cat(uniforms).to(device),  # (B * captions, max_length)
        temperature=config.temperature,
        top_k=config.top_k,
        top_p=config.top_p,
    )
    return [captions[start : start + count] for start in range(0, len(captions), count)]


def source_key(source: Tensor) -> int:
    """Return a number computed from an image or from the tokens of a text; it seeds its samples."""
    values = source[source != PAD] if source.dim() == 1 else source  # padding depends on the batch
    return zlib.crc32(values.cpu().numpy().tobytes())


def _uniforms(config: DecodingConfig, source_key: int, max_length: int) -> Tensor:
    """Return (captions, max_length) random numbers in [0, 1).

    They depend on the seed and the source only. Those of one position are drawn after those of the
    position before, so a larger `max_length`, which other sources of the batch cause, changes none.
    """
    generator = torch.Generator().manual_seed(zlib.crc32(f"{config.seed} {source_key}".encode()))
    return torch.rand(max_length, config.captions, generator=generator).t()
