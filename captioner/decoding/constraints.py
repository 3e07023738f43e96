"""Rules of decoding (logits processors in Hugging Face). `apply_rules` adds them to a `Step`.

The result is a `Step` too, so greedy search, sampling and beam search apply the same rules. A rule
sets log-probabilities to -inf. Those of the other tokens are not renormalised.

Shape letters: N captions, t tokens so far with <bos>, W required tokens, V vocabulary size.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import cast

import torch
from torch import Tensor

from captioner.types import State, Step

Rule = Callable[[Tensor, Tensor, Tensor], None]
"""(tokens so far (N, t), log-probabilities (N, V) of the next token, tokens that still fit (N,)).

A rule sets the log-probabilities of the tokens that it forbids to -inf, in place."""


def apply_rules(
    step: Step,
    state: State,
    rules: Sequence[Rule],
    *,
    eos: int,
    limits: Tensor,
    prefix: Sequence[int] = (),
) -> tuple[Step, State]:
    """Return a step that applies `rules`, and the state from which to start a search with it.

    Every caption starts with `prefix`, to which no rule applies. A caption for which the rules
    leave no token ends with <eos>. The tokens so far, and how many still fit, become the last parts
    of the state, so that a search reorders them with the others.

    Args:
        step: of the model.
        state: before the first token, one row for each source.
        rules: in the order in which they are applied.
        eos: id of <eos>.
        limits: (sources,) the most tokens of a caption of each source; <eos> comes next.
        prefix: the first tokens of every caption; it may not exceed the limits.
    """

    def constrained_step(token_ids: Tensor, state: State) -> tuple[Tensor, State]:
        *model_state, previous, limit = state
        log_probs, new_state = step(token_ids, tuple(model_state))  # (N, V)
        history = torch.cat([cast(Tensor, previous), token_ids.unsqueeze(1)], dim=1)  # (N, t)
        position = history.shape[1] - 1  # of the next token, <bos> not counted
        if position < len(prefix):
            log_probs = _only(log_probs, prefix[position])
        else:
            room = cast(Tensor, limit) - position  # (N,) tokens that still fit
            eos_log_prob = log_probs[:, eos].clone()  # (N,)
            for rule in rules:
                rule(history, log_probs, room)
            log_probs.masked_fill_((room <= 0).unsqueeze(1), -torch.inf)
            no_token_left = log_probs.amax(dim=1) == -torch.inf  # (N,)
            log_probs[:, eos] = torch.where(no_token_left, eos_log_prob, log_probs[:, eos])
        return log_probs, (*new_state, history, limit)

    no_history = torch.empty((state[0].shape[0], 0), dtype=torch.int64, device=state[0].device)
    return constrained_step, (*state, no_history, limits)


def forbid(token_ids: Sequence[int]) -> Rule:
    """Return a rule that forbids these tokens."""

    def rule(history: Tensor, log_probs: Tensor, room: Tensor) -> None:
        log_probs[:, list(token_ids)] = -torch.inf

    return rule


def min_length(length: int, *, eos: int) -> Rule:
    """Return a rule that forbids <eos> before `length` tokens."""

    def rule(history: Tensor, log_probs: Tensor, room: Tensor) -> None:
        if history.shape[1] - 1 < length:
            log_probs[:, eos] = -torch.inf

    return rule


def no_double_words(exempt: Sequence[int] = ()) -> Rule:
    """Return a rule that forbids the last token as the next one, unless it is in `exempt`."""

    def rule(history: Tensor, log_probs: Tensor, room: Tensor) -> None:
        _forbid_again(history[:, -1:], log_probs, exempt)

    return rule


def no_repeat_ngram(n: int) -> Rule:
    """Return a rule that forbids a second occurrence of any `n` tokens in a row."""

    def rule(history: Tensor, log_probs: Tensor, room: Tensor) -> None:
        tokens = history[:, 1:]  # (N, t-1) without <bos>
        if tokens.shape[1] < n:
            return
        ngrams = tokens.unfold(1, n, 1)  # (N, t-n, n)
        # The next token completes an n-gram with the last n-1: compare them with earlier n-grams.
        last = tokens[:, tokens.shape[1] - n + 1 :]  # (N, n-1)
        matches = (ngrams[..., :-1] == last.unsqueeze(1)).all(dim=2)  # (N, t-n)
        row, start = matches.nonzero(as_tuple=True)
        log_probs[row, ngrams[row, start, -1]] = -torch.inf

    return rule


def no_repeat_words(exempt: Sequence[int]) -> Rule:
    """Return a rule that forbids a second occurrence of any token that is not in `exempt`."""

    def rule(history: Tensor, log_probs: Tensor, room: Tensor) -> None:
        _forbid_again(history, log_probs, exempt)

    return rule


def _forbid_again(tokens: Tensor, log_probs: Tensor, exempt: Sequence[int]) -> None:
    """Forbid tokens (N, t) of each caption as its next one, unless they are in `exempt`."""
    may_repeat = torch.isin(tokens, tokens.new_tensor(list(exempt)))  # (N, t)
    own = log_probs.gather(1, tokens)  # (N, t) of these tokens
    log_probs.scatter_(1, tokens, own.masked_fill(~may_repeat, -torch.inf))


def require(token_ids: Sequence[int], *, eos: int) -> Rule:
    """Return a rule under which a caption holds all these tokens, if they fit.

    It forbids <eos> while a token is missing. When the remaining positions are only enough for the
    missing tokens, it forbids all others, so they come at the end of the caption. `beam_search`
    with `required` finds better positions for them.
    """

    def rule(history: Tensor, log_probs: Tensor, room: Tensor) -> None:
        required = history.new_tensor(list(token_ids))  # (W,)
        missing = missing_tokens(history, required)  # (N, W)
        num_missing = missing.sum(dim=1)  # (N,)
        log_probs[:, eos] = log_probs[:, eos].masked_fill(num_missing > 0, -torch.inf)
        urgent = ((num_missing > 0) & (num_missing >= room)).unsqueeze(1)  # (N, 1)
        only_missing = log_probs[:, required].masked_fill(~missing, -torch.inf)  # (N, W)
        log_probs.masked_fill_(urgent, -torch.inf)
        log_probs[:, required] = torch.where(urgent, only_missing, log_probs[:, required])

    return rule


def missing_tokens(history: Tensor, required: Tensor) -> Tensor:
    """Return (N, W) which of the required tokens (W,) are not among the tokens so far (N, t)."""
    return ~(history.unsqueeze(2) == required).any(dim=1)


def _only(log_probs: Tensor, token_id: int) -> Tensor:
    """Return log-probabilities (N, V) that are -inf except at one token."""
    kept = torch.full_like(log_probs, -torch.inf)
    kept[:, token_id] = log_probs[:, token_id]
    return kept
