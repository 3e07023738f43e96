"""Several models that speak as one: at each word, the mean of their probabilities."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from captioner.types import Batch, Speaker, State


class Ensemble:
    """Average models of one vocabulary, which may differ in everything else.

    Its state is theirs, one after the other, so that a search handles it as any other.
    """

    def __init__(self, speakers: Sequence[Speaker]) -> None:
        self.speakers = list(speakers)
        self._parts: list[int] = []  # how many parts of the state are each model's

    def begin(self, source: Tensor) -> State:
        """Look at images (B, 3, height, width) and give the states before the first word."""
        states = [speaker.begin(source) for speaker in self.speakers]
        self._parts = [len(state) for state in states]
        return tuple(part for state in states for part in state)

    def step(self, words: Tensor, state: State) -> tuple[Tensor, State]:
        """Read one word (N,) and give the log-probabilities of the next, (N, V), with the new states."""
        found = [speaker.step(words, own) for speaker, own in zip(self.speakers, self._split(state), strict=True)]
        return _mean([log_probs for log_probs, _ in found]), tuple(part for _, own in found for part in own)

    def read(self, batch: Batch, state: State) -> Tensor:
        """Read whole captions and give the log-probability of each of their M words, (M,)."""
        states = self._split(state)
        return _mean([speaker.read(batch, own) for speaker, own in zip(self.speakers, states, strict=True)])

    def _split(self, state: State) -> list[State]:
        ends = [sum(self._parts[: number + 1]) for number in range(len(self._parts))]
        return [state[end - count : end] for end, count in zip(ends, self._parts, strict=True)]


def _mean(log_probs: list[Tensor]) -> Tensor:
    """The logarithm of the mean probability."""
    return torch.stack(log_probs).logsumexp(dim=0) - math.log(len(log_probs))
