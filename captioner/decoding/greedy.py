"""Greedy search: always the likeliest next word. Knows a step, not a model."""

from __future__ import annotations

import torch

from captioner.types import Hypothesis, State, Step


def greedy(step: Step, state: State, *, bos: int, eos: int, max_length: int) -> list[Hypothesis]:
    """Write a caption for each row of `state`, all at once, of `max_length` words at most.

    A caption that reaches `max_length` is ended there, and its log-probability is that of ending there.
    """
    rows = state[0].shape[0]
    device = state[0].device
    words = torch.full((rows,), bos, device=device)
    total = torch.zeros(rows, device=device)
    done = torch.zeros(rows, dtype=torch.bool, device=device)
    said = []
    for length in range(max_length + 1):
        log_probs, state = step(words, state)  # (rows, V)
        if length == max_length:
            log_prob, words = log_probs[:, eos], torch.full_like(words, eos)
        else:
            log_prob, words = log_probs.max(dim=1)
        words = words.masked_fill(done, eos)
        total += log_prob.masked_fill(done, 0.0)
        said.append(words)
        done = done | (words == eos)
        if done.all():
            break
    captions = torch.stack(said, dim=1).tolist()  # (rows, length)
    return [
        Hypothesis(caption[: caption.index(eos)], score)
        for caption, score in zip(captions, total.tolist(), strict=True)
    ]
