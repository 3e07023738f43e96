"""Rules of decoding: each takes a step and gives a step, so every search obeys them alike."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from captioner.types import State, Step


def forbid(step: Step, words: Sequence[int]) -> Step:
    """Never say these words."""
    banned = list(words)

    def forbidding(previous: Tensor, state: State) -> tuple[Tensor, State]:
        log_probs, state = step(previous, state)
        log_probs[:, banned] = -float("inf")
        return log_probs, state

    return forbidding
