"""Decoding one token at a time: greedy search, and sampling with temperature, top-k and top-p.

Both use only the model's `Step` function.

Shape letters: N captions, R captions that have not ended, V vocabulary size, M candidate tokens.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from captioner.types import Hypothesis, State, Step, select_state

TokenChooser = Callable[[Tensor, Tensor, int], Tensor]
"""(log-probabilities (R, V), row of each caption (R,), position of the token) -> tokens (R,)."""


def greedy(step: Step, state: State, *, bos: int, eos: int, max_length: int) -> list[Hypothesis]:
    """Return a caption for each row of `state`: the likeliest token at every step."""

    def likeliest(log_probs: Tensor, rows: Tensor, position: int) -> Tensor:
        return log_probs.argmax(dim=1)

    return _decode(step, state, likeliest, bos=bos, eos=eos, max_length=max_length)


def sample(
    step: Step,
    state: State,
    *,
    bos: int,
    eos: int,
    uniforms: Tensor,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float = 1.0,
) -> list[Hypothesis]:
    """Return a caption for each row of `state`, with every token sampled.

    Args:
        step: computes the log-probabilities of the next token.
        state: before the first token, N rows.
        bos: id of <bos>.
        eos: id of <eos>.
        uniforms: (N, max_length) random numbers in [0, 1), one for each token. A row's caption
            depends on its own numbers only, not on other rows.
        temperature: tokens are sampled from the softmax of log-probability / temperature.
        top_k: keep the `top_k` likeliest tokens (Fan et al. 2018); None: all.
        top_p: of those, keep the fewest whose probabilities add up to `top_p` (Holtzman et al.
            2020, nucleus sampling).
    """

    def sampled(log_probs: Tensor, rows: Tensor, position: int) -> Tensor:
        probs, tokens = _candidates(log_probs / temperature, top_k, top_p)  # (R, M)
        # Inverse transform sampling: the first token whose cumulative probability exceeds u.
        cumulative = probs.cumsum(dim=1)  # (R, M)
        u = uniforms[rows, position].unsqueeze(1) * cumulative[:, -1:]  # (R, 1)
        # right=True, so that a token of probability zero is never chosen.
        index = torch.searchsorted(cumulative, u, right=True).clamp(max=cumulative.shape[1] - 1)
        chosen = index if tokens is None else tokens.gather(1, index)  # (R, 1)
        return chosen.squeeze(1)

    return _decode(step, state, sampled, bos=bos, eos=eos, max_length=uniforms.shape[1])


def _candidates(logits: Tensor, top_k: int | None, top_p: float) -> tuple[Tensor, Tensor | None]:
    """Return probabilities (R, M) and their tokens (R, M), the likeliest first.

    The tokens are None if nothing is filtered: then they are 0..V-1, in this order.
    """
    if top_k is None and top_p >= 1:
        return logits.softmax(dim=1), None
    size = logits.shape[1]
    logits, tokens = logits.topk(min(top_k or size, size), dim=1)
    probs = logits.softmax(dim=1)  # (R, M), renormalised over the candidates
    if top_p < 1:
        # A token is kept if the probabilities of the likelier tokens sum to less than top_p. The
        # likeliest one always is: in float32 a tiny top_p is 0.
        mass_before = probs.cumsum(dim=1) - probs
        probs = probs.masked_fill((mass_before >= top_p) & (mass_before > 0), 0.0)
    return probs, tokens


def _decode(
    step: Step, state: State, choose: TokenChooser, *, bos: int, eos: int, max_length: int
) -> list[Hypothesis]:
    """Return a caption of at most `max_length` tokens for each row of `state`.

    Only captions that have not ended are stepped. Log-probabilities are those of `step`, however
    the tokens are chosen.
    """
    num_captions, device = state[0].shape[0], state[0].device
    # Filled with <eos>: a caption that ends early needs no padding.
    token_ids = torch.full((num_captions, max_length + 1), eos, device=device)
    scores = torch.zeros((num_captions, max_length + 1), device=device)
    rows = torch.arange(num_captions, device=device)  # (R,)
    tokens = torch.full((num_captions,), bos, device=device)  # (R,)
    for position in range(max_length + 1):
        log_probs, state = step(tokens, state)  # (R, V)
        at_limit = position == max_length  # where every caption must end
        tokens = torch.full_like(tokens, eos) if at_limit else choose(log_probs, rows, position)
        token_ids[rows, position] = tokens
        scores[rows, position] = log_probs.gather(1, tokens.unsqueeze(1)).squeeze(1)
        active = tokens != eos  # (R,); the rows of ended captions leave the batch
        if not active.all():
            rows, tokens, state = rows[active], tokens[active], select_state(state, active)
        if len(rows) == 0:
            break
    lengths = (token_ids != eos).sum(dim=1).tolist()  # without <eos>
    return [
        Hypothesis(ids[:length], log_probs[: length + 1])
        for ids, log_probs, length in zip(token_ids.tolist(), scores.tolist(), lengths, strict=True)
    ]
