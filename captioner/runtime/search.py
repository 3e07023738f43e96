"""Beam search over arrays, for all images of a batch at once. With one beam it is greedy search.

It finds the captions of `captioner.decoding.beam` (without groups and required words), with the
same log-probabilities, and knows a step function, not a model.

Shape letters: B images, K slots of an image, N active beams, M candidates of a beam, V vocabulary
size, t tokens so far.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from captioner.captions import Hypothesis
from captioner.runtime.graphs import State
from captioner.runtime.rules import Rule
from captioner.runtime.settings import Settings

Step = Callable[[np.ndarray, State], tuple[np.ndarray, State]]
"""(token ids (N,), state) -> (log-probabilities (N, V) of the next token, new state)."""

LengthNorm = Callable[[int], float]
"""Tokens of a caption with <eos> -> lp, the divisor of its log-probability; it never decreases."""


def length_norm(settings: Settings) -> LengthNorm:
    """Return the length normalisation of `settings`: see `captioner.decoding.beam`."""
    match settings.length_norm:
        case "average":
            return float
        case "wu":  # Wu et al. 2016, equation 14
            return lambda length: float(((5 + length) / 6) ** settings.length_alpha)
        case _:
            return lambda length: 1.0


class _Beams(NamedTuple):
    """The active beams: partial captions, one in each row."""

    image: np.ndarray  # (N,) in 0..B-1
    slot: np.ndarray  # (N,) in 0..K-1
    parent: np.ndarray  # (N,) row of the previous step's state that the beam continues
    token_ids: np.ndarray  # (N, t) all tokens, without <bos>
    log_probs: np.ndarray  # (N, t) the log-probability of each
    total: np.ndarray  # (N,) their sum

    def select(self, rows: np.ndarray) -> _Beams:
        return _Beams(*(part[rows] for part in self))

    def extend(
        self,
        parent: np.ndarray,
        token: np.ndarray,
        slot: np.ndarray,
        log_probs: np.ndarray,
    ) -> _Beams:
        """Return the beams (N',) that continue rows `parent` with `token`, in new slots.

        `log_probs` (N, V) are those of this step.
        """
        log_prob = log_probs[parent, token]  # (N',)
        return _Beams(
            self.image[parent],
            slot,
            parent,
            np.concatenate([self.token_ids[parent], token[:, None]], axis=1),
            np.concatenate([self.log_probs[parent], log_prob[:, None]], axis=1),
            self.total[parent] + log_prob,
        )


class _FinishedCaptions:
    """The captions of every image that have ended, ranked by score."""

    def __init__(self, num_images: int, num_captions: int, norm: LengthNorm) -> None:
        self.num_captions, self.norm = num_captions, norm
        self.hypotheses: list[list[Hypothesis]] = [[] for _ in range(num_images)]

    def score(self, caption: Hypothesis) -> float:
        """Return log P(caption | image) / lp(length) (Wu et al. 2016, equation 14)."""
        return caption.log_prob / self.norm(len(caption.token_ids) + 1)

    def best(self) -> list[list[Hypothesis]]:
        """Return the `num_captions` captions of highest score for each image, the best first."""
        ranked = (sorted(every, key=self.score, reverse=True) for every in self.hypotheses)
        return [captions[: self.num_captions] for captions in ranked]

    def add(self, beams: _Beams) -> None:
        """Add beams that end in <eos>."""
        captions = (beams.image, beams.token_ids[:, :-1], beams.log_probs)
        for image, ids, log_probs in zip(*(part.tolist() for part in captions), strict=True):
            self.hypotheses[image].append(Hypothesis(ids, log_probs))

    def can_improve(self, beams: _Beams, max_length: int) -> np.ndarray:
        """Return (N,) whether any beam of the same image can become one of its best captions."""
        thresholds = [
            self.score(best[-1]) if len(best) == self.num_captions else -np.inf
            for best in self.best()
        ]
        # A beam's log-probability never rises and lp never falls: an upper bound on its captions.
        bounds = beams.total / self.norm(max_length + 1)  # (N,)
        promising = bounds > np.array(thresholds, dtype=bounds.dtype)[beams.image]
        return np.isin(beams.image, beams.image[promising])


def beam_search(
    step: Step,
    state: State,
    rule: Rule,
    *,
    bos: int,
    eos: int,
    max_length: int,
    num_beams: int,
    num_captions: int,
    norm: LengthNorm,
) -> list[list[Hypothesis]]:
    """Return the best captions of every image, the best first.

    At every step, the best continuations of an image fill its slots. One that ends in <eos> is
    finished and closes its slot. An image is done when all its slots are closed, or when none of
    its beams can become one of its best captions.

    Args:
        step: computes the log-probabilities of the next token; called with active beams only.
        state: of the images before the first token, one row for each.
        rule: which tokens may come next: see `captioner.runtime.rules.combine`.
        bos: id of <bos>.
        eos: id of <eos>.
        max_length: tokens of a caption without <eos>. Beams of that length get <eos> next.
        num_beams: slots of an image.
        num_captions: captions to return for each image.
        norm: captions are ranked by log-probability / norm(tokens with <eos>).
    """
    num_images = len(state[0])
    images = np.arange(num_images)
    no_scores = np.empty((num_images, 0), dtype=np.float32)
    beams = _Beams(
        images, np.zeros_like(images), images, no_scores.astype(np.int64), no_scores,
        np.zeros(num_images, dtype=np.float32),
    )  # fmt: skip
    tokens = np.full(num_images, bos)  # (N,) the last token of each beam
    open_slots = np.full(num_images, num_beams)  # (B,)
    finished = _FinishedCaptions(num_images, num_captions, norm)
    for length in range(max_length + 1):
        if length:  # the first states are those of the images
            state = tuple(part[beams.parent] for part in state)
        log_probs, state = step(tokens, state)  # (N, V)
        rule(beams.token_ids, log_probs)
        if length < max_length:
            chosen = _choose(beams, log_probs, open_slots, num_beams)
        else:  # every beam ends
            chosen = np.arange(len(beams.slot)), np.full_like(beams.slot, eos), beams.slot
        beams = beams.extend(*chosen, log_probs)
        ended = beams.token_ids[:, -1] == eos
        if ended.any():
            finished.add(beams.select(ended))
            np.subtract.at(open_slots, beams.image[ended], 1)
            beams = beams.select(~ended)
            if num_captions < num_beams:
                beams = beams.select(finished.can_improve(beams, max_length))
        if len(beams.slot) == 0:
            break
        tokens = beams.token_ids[:, -1]
    return finished.best()


def _choose(
    beams: _Beams, log_probs: np.ndarray, open_slots: np.ndarray, num_slots: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return as many of the best continuations of each image as it has open slots.

    They are (N',) rows of the beams that are continued, next tokens, and slots.
    """
    candidates = _largest(log_probs, num_slots)  # (N, M) the likeliest tokens of each beam
    values = np.take_along_axis(log_probs, candidates, axis=1)
    # (B, K, M) log-probabilities of whole captions, and the row of the beam in each slot
    totals = np.full(
        (len(open_slots), num_slots, candidates.shape[1]), -np.inf, dtype=log_probs.dtype
    )
    totals[beams.image, beams.slot] = beams.total[:, None] + values
    row_in_slot = np.zeros((len(open_slots), num_slots), dtype=np.int64)
    row_in_slot[beams.image, beams.slot] = np.arange(len(beams.slot))
    totals = totals.reshape(len(open_slots), -1)  # (B, K * M)
    order = _largest(totals, num_slots)  # (B, K)
    best = np.take_along_axis(totals, order, axis=1)
    wins = (np.arange(order.shape[1]) < open_slots[:, None]) & (best != -np.inf)
    image, slot = wins.nonzero()  # (N',) each
    old_slot, candidate = np.divmod(order[image, slot], candidates.shape[1])
    parent = row_in_slot[image, old_slot]  # (N',)
    token: np.ndarray = candidates[parent, candidate]
    return parent, token, slot


def _largest(values: np.ndarray, count: int) -> np.ndarray:
    """Return the columns (R, count) of the largest values of each row, the largest first."""
    if count == 1:
        first: np.ndarray = values.argmax(axis=1)
        return first[:, None]
    if count < values.shape[1]:
        columns = np.argpartition(values, -count, axis=1)[:, -count:]  # not in order
    else:
        columns = np.broadcast_to(np.arange(values.shape[1]), values.shape)
    within = np.take_along_axis(values, columns, axis=1)
    order = (-within).argsort(axis=1)
    largest: np.ndarray = np.take_along_axis(columns, order, axis=1)
    return largest
