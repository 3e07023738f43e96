"""Beam search for all images of a batch at once: length normalisation, beams, slots, the search.

The search calls the `Step` function of a model and nothing else of it. It combines

* length normalisation (Wu et al. 2016, "Google's neural machine translation system", section 7);
* diverse beam search (Vijayakumar et al. 2018), where groups of beams avoid each other's tokens;
* dynamic beam allocation (Post and Vilar 2018), which divides the slots among beams that hold
  0, 1, 2, ... required tokens.

Shape letters: B images, G groups of all images (B x groups of an image), K slots of a group,
N active beams, M candidates of a beam, W required tokens, V vocabulary size, t tokens so far.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from captioner.decoding.constraints import missing_tokens
from captioner.types import Hypothesis, State, Step, select_state

LengthNorm = Callable[[int], float]
"""Tokens of a caption with <eos> -> lp, the divisor of its log-probability; it never decreases."""


def no_norm(length: int) -> float:
    """Return 1: captions are ranked by log-probability, which favours short ones."""
    return 1.0


def average_norm(length: int) -> float:
    """Return the length: captions are ranked by mean log-probability, which favours long ones."""
    return float(length)


def wu_norm(alpha: float) -> LengthNorm:
    """Return lp(length) = ((5 + length) / 6) ** alpha (Wu et al. 2016, equation 14)."""
    return lambda length: float(((5 + length) / 6) ** alpha)


class Continuations(NamedTuple):
    """Beams, each with its next token, that have won the slots of the next step."""

    parent: Tensor  # (N',) row of the beam that is continued
    token: Tensor  # (N',) the next token
    group: Tensor  # (N',) in 0..G-1
    slot: Tensor  # (N',) in 0..K-1


class Beams(NamedTuple):
    """The active beams: partial captions, one in each row."""

    group: Tensor  # (N,) in 0..G-1: image * groups of an image + group of that image
    slot: Tensor  # (N,) in 0..K-1
    parent: Tensor  # (N,) row of the previous step's state that the beam continues
    token: Tensor  # (N,) last token
    token_ids: Tensor  # (N, t) all tokens, without <bos>
    log_probs: Tensor  # (N, t) the log-probability of each
    total: Tensor  # (N,) their sum

    @classmethod
    def start(cls, num_images: int, num_groups: int, *, bos: int, device: torch.device) -> Beams:
        """Return an empty beam in the first slot of every group."""
        group = torch.arange(num_images * num_groups, device=device)  # (G,)
        return cls(
            group=group,
            slot=torch.zeros_like(group),
            parent=group // num_groups,  # the first states are those of the images
            token=torch.full_like(group, bos),
            token_ids=torch.empty((len(group), 0), dtype=torch.int64, device=device),
            log_probs=torch.empty((len(group), 0), device=device),
            total=torch.zeros(len(group), device=device),
        )

    def select(self, rows: Tensor) -> Beams:
        """Return the beams in some rows."""
        return Beams(*(part[rows] for part in self))

    def extend(self, chosen: Continuations, log_probs: Tensor) -> Beams:
        """Return the beams of the next step; `log_probs` (N, V) are those of this step."""
        parent, token, group, slot = chosen
        log_prob = log_probs[parent, token]  # (N',) the model's own: without penalties
        return Beams(
            group,
            slot,
            parent,
            token,
            torch.cat([self.token_ids[parent], token.unsqueeze(1)], dim=1),
            torch.cat([self.log_probs[parent], log_prob.unsqueeze(1)], dim=1),
            self.total[parent] + log_prob,
        )

    def ended_by(self, eos: int) -> Continuations:
        """Return the continuations that end every beam with <eos>."""
        rows = torch.arange(len(self.slot), device=self.slot.device)
        return Continuations(rows, torch.full_like(self.token, eos), self.group, self.slot)


class FinishedCaptions:
    """The captions of every image that have ended, ranked by score."""

    def __init__(
        self, num_images: int, num_captions: int, num_groups: int, length_norm: LengthNorm
    ) -> None:
        """Start without captions; `num_captions` are wanted for each image."""
        self.num_captions, self.num_groups, self.length_norm = num_captions, num_groups, length_norm
        self.hypotheses: list[list[Hypothesis]] = [[] for _ in range(num_images)]

    def score(self, caption: Hypothesis) -> float:
        """Return log P(caption | image) / lp(length) (Wu et al. 2016, equation 14)."""
        return caption.log_prob / self.length_norm(len(caption.token_ids) + 1)

    def best(self) -> list[list[Hypothesis]]:
        """Return the `num_captions` captions of highest score for each image, the best first."""
        ranked = (sorted(every, key=self.score, reverse=True) for every in self.hypotheses)
        return [captions[: self.num_captions] for captions in ranked]

    def add(self, beams: Beams) -> None:
        """Add beams that end in <eos>. Groups can find the same caption: it is kept once."""
        images = beams.group // self.num_groups  # (N,)
        captions = (images, beams.token_ids[:, :-1], beams.log_probs)
        for image, ids, log_probs in zip(*(part.tolist() for part in captions), strict=True):
            if all(ids != other.token_ids for other in self.hypotheses[image]):
                self.hypotheses[image].append(Hypothesis(ids, log_probs))

    def can_improve(self, beams: Beams, max_length: int) -> Tensor:
        """Return (N,) whether any beam of the same image can become one of its best captions."""
        thresholds = [
            self.score(best[-1]) if len(best) == self.num_captions else -torch.inf
            for best in self.best()
        ]
        # A beam's log-probability never rises and lp never falls: an upper bound on its captions.
        bounds = beams.total / self.length_norm(max_length + 1)  # (N,)
        images = beams.group // self.num_groups  # (N,)
        promising = bounds > torch.tensor(thresholds, device=bounds.device)[images]
        image_can_improve = torch.zeros(len(thresholds), dtype=torch.bool, device=bounds.device)
        image_can_improve[images[promising]] = True
        return image_can_improve[images]


class SlotAllocator:
    """Chooses the continuations that fill the open slots of each group."""

    def __init__(
        self, beams: Beams, slots: int, num_groups: int, diversity: float, required: Sequence[int]
    ) -> None:
        """Open `slots` slots in each group of `beams`, the beams at the start of a search."""
        self.slots, self.num_groups, self.diversity = slots, num_groups, diversity
        self.required = beams.token.new_tensor(list(required))  # (W,)
        self.open_slots = torch.full_like(beams.group, slots).unsqueeze(1)  # (G, 1)

    def close(self, groups: Tensor) -> None:
        """Close one slot for each entry of `groups`, where a caption has ended."""
        self.open_slots.index_add_(0, groups, torch.ones_like(groups).unsqueeze(1), alpha=-1)

    def choose(self, beams: Beams, log_probs: Tensor) -> Continuations:
        """Return the best continuations, given the log-probabilities (N, V) of the next token.

        With several groups, those of an image choose one after the other. Each subtracts
        `diversity` from a token's log-probability for every time that earlier groups have chosen
        the token at this step (Vijayakumar et al. 2018, Hamming diversity).
        """
        if self.num_groups == 1:
            return self._choose_best(beams, log_probs)
        num_images = len(self.open_slots) // self.num_groups
        times_chosen = beams.total.new_zeros((num_images, log_probs.shape[1]))  # (B, V)
        per_group = []
        for number in range(self.num_groups):
            rows = (beams.group % self.num_groups == number).nonzero().squeeze(1)
            images = beams.group[rows] // self.num_groups
            penalised = log_probs[rows] - self.diversity * times_chosen[images]
            chosen = self._choose_best(beams.select(rows), penalised)
            images = chosen.group // self.num_groups
            times_chosen.index_put_(
                (images, chosen.token), times_chosen.new_ones(()), accumulate=True
            )
            per_group.append(chosen._replace(parent=rows[chosen.parent]))
        return Continuations(*(torch.cat(parts) for parts in zip(*per_group, strict=True)))

    def _choose_best(self, beams: Beams, log_probs: Tensor) -> Continuations:
        """Return as many of the best continuations of each group as it has open slots."""
        values, tokens, banks = self._candidates(beams, log_probs)  # (N, M) each
        totals = beams.total.unsqueeze(1) + values  # (N, M) log-probabilities of whole captions
        totals = self._by_slot(beams, totals, empty=-torch.inf).flatten(1)  # (G, K * M)
        if len(self.required):
            banks = self._by_slot(beams, banks, empty=0).flatten(1)  # (G, K * M)
            order = _round_robin(totals, banks, len(self.required) + 1)
            best = totals.gather(1, order)  # (G, K * M)
        else:
            best, order = totals.topk(min(self.slots, totals.shape[1]), dim=1)  # (G, K)
        rank = torch.arange(best.shape[1], device=best.device)
        wins = (rank < self.open_slots) & (best != -torch.inf)
        group, slot = wins.nonzero(as_tuple=True)  # (N',) each
        winner = order[group, slot]  # (N',) in 0..K*M-1
        old_slot, candidate = winner // tokens.shape[1], winner % tokens.shape[1]
        rows = torch.arange(len(tokens), device=tokens.device)
        parent = self._by_slot(beams, rows, empty=0)[group, old_slot]  # (N',)
        return Continuations(parent, tokens[parent, candidate], group, slot)

    def _candidates(self, beams: Beams, log_probs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return log-probability, token and bank, (N, M) each, of the candidates of every beam.

        Candidates are the likeliest tokens and every required token that the beam lacks. The bank
        is the number of required tokens that a continuation holds (Post and Vilar 2018).
        """
        required = self.required  # (W,)
        values, tokens = log_probs.topk(min(self.slots + len(required), log_probs.shape[1]), dim=1)
        if not len(required):
            return values, tokens, torch.zeros_like(tokens)
        missing = missing_tokens(beams.token_ids, required)  # (N, W)
        held = len(required) - missing.sum(dim=1, keepdim=True)  # (N, 1)
        forced = log_probs[:, required].masked_fill(~missing, -torch.inf)  # (N, W)
        # A missing token that is also among the likeliest would be a candidate twice.
        twice = ((tokens.unsqueeze(2) == required) & missing.unsqueeze(1)).any(dim=2)
        values = torch.cat([values.masked_fill(twice, -torch.inf), forced], dim=1)
        banks = torch.cat([held.expand_as(tokens), held + missing], dim=1)
        return values, torch.cat([tokens, required.expand_as(missing)], dim=1), banks

    def _by_slot(self, beams: Beams, values: Tensor, *, empty: float) -> Tensor:
        """Return `values` (N, ...) as (G, K, ...), with `empty` in slots that hold no beam."""
        table = values.new_full((len(self.open_slots), self.slots, *values.shape[1:]), empty)
        table[beams.group, beams.slot] = values
        return table


def _round_robin(totals: Tensor, banks: Tensor, num_banks: int) -> Tensor:
    """Return the order (G, A) of A candidates: first the best of every bank, then the second ...

    Each round begins with the bank of most required tokens. So banks get equal shares of the
    slots, and slots that one of them cannot fill go to the others (Post and Vilar 2018).
    """
    totals, order = totals.sort(dim=1, descending=True)
    possible = totals != -torch.inf
    banks = banks.gather(1, order)
    in_bank = torch.nn.functional.one_hot(banks, num_banks) * possible.unsqueeze(2)
    # The rank of each candidate within its bank, from 1, is the round in which it is taken.
    rounds = in_bank.cumsum(dim=1).gather(2, banks.unsqueeze(2)).squeeze(2)  # (G, A)
    key = rounds * num_banks + (num_banks - 1 - banks)
    key = key.masked_fill(~possible, torch.iinfo(torch.int64).max)
    return order.gather(1, key.argsort(dim=1, stable=True))


def beam_search(
    step: Step,
    state: State,
    *,
    bos: int,
    eos: int,
    max_length: int,
    num_beams: int,
    num_captions: int | None = None,
    length_norm: LengthNorm = average_norm,
    num_groups: int = 1,
    diversity: float = 0.0,
    required: Sequence[int] = (),
) -> list[list[Hypothesis]]:
    """Return the best captions of every image, the best first.

    At every step, the best continuations of an image fill its slots. One that ends in <eos> is
    finished and closes its slot. An image is done when all its slots are closed, or when none of
    its beams can become one of its best captions. One beam is greedy search.

    Args:
        step: computes the log-probabilities of the next token; called with active beams only.
        state: of the images before the first token, one row for each.
        bos: id of <bos>.
        eos: id of <eos>.
        max_length: tokens of a caption without <eos>. Beams of that length get <eos> next.
        num_beams: slots of an image, a multiple of `num_groups`.
        num_captions: captions to return for each image; None: as many as slots.
        length_norm: captions are ranked by log-probability / length_norm(tokens with <eos>).
        num_groups: groups that share the slots of an image, for diverse beam search.
        diversity: penalty of tokens that earlier groups have chosen. It affects no score.
        required: tokens for which slots are reserved. The rule `constraints.require`, which `step`
            must apply, is what makes captions hold them.
    """
    num_images, device = state[0].shape[0], state[0].device
    num_captions = num_captions or num_beams
    beams = Beams.start(num_images, num_groups, bos=bos, device=device)
    finished = FinishedCaptions(num_images, num_captions, num_groups, length_norm)
    allocator = SlotAllocator(beams, num_beams // num_groups, num_groups, diversity, required)
    for length in range(max_length + 1):
        state = select_state(state, beams.parent)
        log_probs, state = step(beams.token, state)  # (N, V)
        chosen = allocator.choose(beams, log_probs) if length < max_length else beams.ended_by(eos)
        beams = beams.extend(chosen, log_probs)
        ended = beams.token == eos
        if ended.any():
            finished.add(beams.select(ended))
            allocator.close(beams.group[ended])
            beams = beams.select(~ended)
            if num_captions < num_beams:
                beams = beams.select(finished.can_improve(beams, max_length))
        if len(beams.token) == 0:
            break
    return finished.best()
