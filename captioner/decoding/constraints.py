"""Rules of decoding. A step that obeys them is a step again, so greedy search, sampling and beam search all do.

A rule takes probability away and never hands it to other words: log-probabilities stay the model's own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import cast

import torch
from torch import Tensor

from captioner.types import State, Step

Rule = Callable[[Tensor, Tensor], None]
"""(words so far (N, t), <bos> first; log-probabilities (N, V)) → sets those of words it forbids to -inf, in place."""

NEVER = -float("inf")


def obey(
    step: Step, state: State, rules: Sequence[Rule], *, eos: int, prefix: Sequence[int] = ()
) -> tuple[Step, State]:
    """Begin every caption with `prefix`, then obey every rule; gives the step and the state to start a search from.

    The words so far travel as one more part of the state. Where rules leave a caption no word at all, it ends.
    """

    def obedient(words: Tensor, state: State) -> tuple[Tensor, State]:
        *inner, before = state
        log_probs, new = step(words, tuple(inner))  # (N, V)
        said = torch.cat([cast(Tensor, before), words.unsqueeze(1)], dim=1)  # (N, t)
        place = said.shape[1] - 1
        if place < len(prefix):
            log_probs = _nothing_but(log_probs, [prefix[place]])
        else:
            ending = log_probs[:, eos].clone()
            for rule in rules:
                rule(said, log_probs)
            stuck = log_probs.amax(dim=1) == NEVER
            log_probs[:, eos] = torch.where(stuck, ending, log_probs[:, eos])
        return log_probs, (*new, said)

    nothing = torch.empty((state[0].shape[0], 0), dtype=torch.int64, device=state[0].device)
    return obedient, (*state, nothing)


def forbid(words: Sequence[int]) -> Rule:
    """Never say these words."""
    banned = list(words)

    def rule(said: Tensor, log_probs: Tensor) -> None:
        log_probs[:, banned] = NEVER

    return rule


def at_least(length: int, *, eos: int) -> Rule:
    """Say this many words before <eos>."""

    def rule(said: Tensor, log_probs: Tensor) -> None:
        if said.shape[1] - 1 < length:
            log_probs[:, eos] = NEVER

    return rule


def no_double_words(said: Tensor, log_probs: Tensor) -> None:
    """Never say a word twice in a row: a rule."""
    log_probs.scatter_(1, said[:, -1:], NEVER)


def no_repeated_ngram(n: int) -> Rule:
    """Never say the same `n` words in a row twice."""

    def rule(said: Tensor, log_probs: Tensor) -> None:
        words = said[:, 1:]  # (N, t-1)
        if words.shape[1] < n:
            return
        ngrams = words.unfold(1, n, 1)  # (N, t-n, n)
        last = words[:, words.shape[1] - n + 1 :]  # (N, n-1) what the next word would complete
        row, place = (ngrams[..., :-1] == last.unsqueeze(1)).all(dim=2).nonzero(as_tuple=True)
        log_probs[row, ngrams[row, place, -1]] = NEVER

    return rule


def require(words: Sequence[int], *, eos: int, max_length: int) -> Rule:
    """Say all of these words: no <eos> before, and nothing else once there is just room for those that are missing.

    Alone it forces them in at the very end; beam search, told of them too, finds them a better place.
    """
    wanted = list(words)

    def rule(said: Tensor, log_probs: Tensor) -> None:
        missing = missing_words(said, wanted)  # (N, C)
        count = missing.sum(dim=1)
        log_probs[:, eos] = log_probs[:, eos].masked_fill(count > 0, NEVER)
        room = max_length - (said.shape[1] - 1)
        if room > len(wanted):
            return
        hurry = (count > 0) & (count >= room)
        rescued = log_probs[:, wanted].masked_fill(~missing, NEVER)
        log_probs.masked_fill_(hurry.unsqueeze(1), NEVER)
        log_probs[:, wanted] = torch.where(hurry.unsqueeze(1), rescued, log_probs[:, wanted])

    return rule


def missing_words(said: Tensor, required: Sequence[int]) -> Tensor:
    """(N, C) which of the required words a caption (N, t) does not hold yet."""
    wanted = torch.tensor(list(required), dtype=torch.int64, device=said.device)
    return ~(said.unsqueeze(2) == wanted).any(dim=1)


def _nothing_but(log_probs: Tensor, words: list[int]) -> Tensor:
    kept = torch.full_like(log_probs, NEVER)
    kept[:, words] = log_probs[:, words]
    return kept
