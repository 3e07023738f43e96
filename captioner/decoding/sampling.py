"""Writing a caption word by word, never to take one back: greedy search and sampling. Knows a step, not a model."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from captioner.types import Hypothesis, State, Step, select_state

Choose = Callable[[Tensor, Tensor, int], Tensor]
"""(log-probabilities (R, V), captions they belong to (R,), place of the word) → words (R,)."""


def greedy(step: Step, state: State, *, bos: int, eos: int, max_length: int) -> list[Hypothesis]:
    """Write a caption for each row of `state`, always with the likeliest next word."""

    def likeliest(log_probs: Tensor, captions: Tensor, place: int) -> Tensor:
        return log_probs.argmax(dim=1)

    return _write(step, state, likeliest, bos=bos, eos=eos, max_length=max_length)


def sample(
    step: Step,
    state: State,
    *,
    bos: int,
    eos: int,
    draws: Tensor,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float = 1.0,
) -> list[Hypothesis]:
    """Write a caption for each row of `state`, drawing every word.

    Words are drawn from the softmax of log-probability / `temperature`, of which only the `top_k` likeliest words are
    kept, and of those the fewest that together have probability `top_p` (Holtzman et al. 2020, nucleus sampling).

    Args:
        draws: (rows, max_length) numbers in [0, 1), one for each word; equal draws, equal captions, whatever other
            rows stand beside them.
    """

    def drawn(log_probs: Tensor, captions: Tensor, place: int) -> Tensor:
        words = None
        scaled = log_probs / temperature
        if top_k is not None or top_p < 1:
            scaled, words = scaled.topk(
                min(top_k or scaled.shape[1], scaled.shape[1]), dim=1
            )  # the likeliest first
        probabilities = scaled.softmax(dim=1)
        if top_p < 1:
            before = probabilities.cumsum(dim=1) - probabilities
            probabilities = probabilities.masked_fill(before >= top_p, 0.0)
        cumulated = probabilities.cumsum(dim=1)
        wanted = draws[captions, place].unsqueeze(1) * cumulated[:, -1:]
        # To the right of its equals, so that a word of probability zero is never found.
        found = torch.searchsorted(cumulated, wanted, right=True).clamp(max=cumulated.shape[1] - 1)
        return (found if words is None else words.gather(1, found)).squeeze(1)

    return _write(step, state, drawn, bos=bos, eos=eos, max_length=draws.shape[1])


def _write(
    step: Step, state: State, choose: Choose, *, bos: int, eos: int, max_length: int
) -> list[Hypothesis]:
    """Write a caption for each row, of `max_length` words at most; one that gets there is ended there.

    Only captions that are not ended are stepped. Log-probabilities are the step's own, however the words are chosen.
    """
    rows, device = state[0].shape[0], state[0].device
    said = torch.full((rows, max_length + 1), eos, device=device)
    scores = torch.zeros((rows, max_length + 1), device=device)
    alive = torch.arange(rows, device=device)  # (R,) captions that go on
    words = torch.full((rows,), bos, device=device)
    for place in range(max_length + 1):
        log_probs, state = step(words, state)  # (R, V)
        words = (
            choose(log_probs, alive, place) if place < max_length else torch.full_like(words, eos)
        )
        said[alive, place] = words
        scores[alive, place] = log_probs.gather(1, words.unsqueeze(1)).squeeze(1)
        going = words != eos
        if not going.all():
            alive, words, state = alive[going], words[going], select_state(state, going)
        if len(alive) == 0:
            break
    lengths = (said != eos).sum(dim=1).tolist()
    return [
        Hypothesis(words[:length], log_probs[: length + 1])
        for words, log_probs, length in zip(said.tolist(), scores.tolist(), lengths, strict=True)
    ]
