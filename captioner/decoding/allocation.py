"""Which continuations of its beams get the places of an image: the search's choice at each word."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from captioner.decoding.constraints import NEVER, missing_words


class Beams(NamedTuple):
    """The captions that are being written, a row each."""

    group: Tensor  # (R,) which group a row is of: image * groups + number of the group
    slot: Tensor  # (R,) which place of its group it has
    words: Tensor  # (R,) its last word
    said: Tensor  # (R, t) its words so far
    scores: Tensor  # (R, t) the log-probability of each
    total: Tensor  # (R,) their sum

    def select(self, index: Tensor) -> Beams:
        """Pick rows."""
        return Beams(*(part[index] for part in self))


class Pick(NamedTuple):
    """The continuations that won: R' of them."""

    row: Tensor  # (R',) the row each continues
    word: Tensor  # (R',)
    group: Tensor  # (R',)
    slot: Tensor  # (R',)


def pick_continuations(
    beams: Beams,
    log_probs: Tensor,
    places: Tensor,
    *,
    width: int,
    groups: int,
    diversity: float,
    required: Sequence[int],
) -> Pick:
    """Choose the continuations: in one go, or group after group where each must see what others chose.

    `places` (groups of all images, 1) is how many each may have now, `width` how many it had at first.
    """
    if groups == 1:
        rows = torch.arange(len(log_probs), device=log_probs.device)
        return _pick_best(beams, log_probs, places, rows, width=width, required=required)
    chosen = torch.zeros((len(places) // groups, log_probs.shape[1]), device=log_probs.device)  # (images, V) how often
    picks = []
    for number in range(groups):
        rows = (beams.group % groups == number).nonzero().squeeze(1)
        penalised = log_probs[rows] - diversity * chosen[beams.group[rows] // groups]
        pick = _pick_best(beams.select(rows), penalised, places, rows, width=width, required=required)
        chosen.index_put_((pick.group // groups, pick.word), torch.ones_like(chosen[0, 0]), accumulate=True)
        picks.append(pick)
    return Pick(*(torch.cat(parts) for parts in zip(*picks, strict=True)))


def _pick_best(
    beams: Beams, log_probs: Tensor, places: Tensor, rows: Tensor, *, width: int, required: Sequence[int]
) -> Pick:
    """Choose for each group as many of the best continuations as it has places; `rows` are the beams' own numbers."""
    values, words, bank = _continuations(beams, log_probs, width, required)  # (R, M) each
    row_of = torch.zeros((len(places), width), dtype=torch.int64, device=rows.device)
    row_of[beams.group, beams.slot] = torch.arange(len(rows), device=rows.device)
    count = values.shape[1]
    candidates = torch.full((*row_of.shape, count), NEVER, device=rows.device)
    candidates[beams.group, beams.slot] = beams.total.unsqueeze(1) + values
    if required:
        banks = torch.zeros(candidates.shape, dtype=torch.int64, device=rows.device)
        banks[beams.group, beams.slot] = bank
        order = _deal_out(candidates.flatten(1), banks.flatten(1), len(required) + 1)  # (groups, all)
        best = candidates.flatten(1).gather(1, order)
    else:
        best, order = candidates.flatten(1).topk(min(width, candidates[0].numel()), dim=1)
    column = torch.arange(best.shape[1], device=rows.device)
    group, slot = ((column < places) & (best != NEVER)).nonzero(as_tuple=True)
    winner = order[group, slot]
    row = row_of[group, winner // count]
    return Pick(rows[row], words[row, winner % count], group, slot)


def _continuations(
    beams: Beams, log_probs: Tensor, width: int, required: Sequence[int]
) -> tuple[Tensor, Tensor, Tensor]:
    """(R, M) the log-probability of each continuation worth a look, its word, and how many required words it holds.

    Worth a look are the likeliest words, and every required word that is still missing.
    """
    values, words = log_probs.topk(min(width + len(required), log_probs.shape[1]), dim=1)
    if not required:
        return values, words, torch.zeros_like(words)
    wanted = torch.tensor(list(required), device=log_probs.device)
    missing = missing_words(beams.said, required)  # (R, C)
    held = len(required) - missing.sum(dim=1, keepdim=True)  # (R, 1)
    twice = ((words.unsqueeze(2) == wanted) & missing.unsqueeze(1)).any(dim=2)  # they stand at the end anyway
    forced = log_probs[:, wanted].masked_fill(~missing, NEVER)  # (R, C)
    return (
        torch.cat([values.masked_fill(twice, NEVER), forced], dim=1),
        torch.cat([words, wanted.expand(len(words), -1)], dim=1),
        torch.cat([held.expand_as(words), (held + missing).expand_as(forced)], dim=1),
    )


def _deal_out(values: Tensor, banks: Tensor, count: int) -> Tensor:
    """(G, A) → the order in which candidates get a place: the best of every bank, then the second of every bank, ...

    Of equals in that, the bank with the most required words comes first. So banks share the places evenly, and what
    one of them cannot fill goes to the others.
    """
    values, order = values.sort(dim=1, descending=True)
    able = values != NEVER
    sorted_banks = banks.gather(1, order)
    mine = torch.nn.functional.one_hot(sorted_banks, count) * able.unsqueeze(2)
    turn = mine.cumsum(dim=1).gather(2, sorted_banks.unsqueeze(2)).squeeze(2)  # from 1 within its bank
    key = turn * count + (count - 1 - sorted_banks)
    key = key.masked_fill(~able, torch.iinfo(torch.int64).max)
    return order.gather(1, key.argsort(dim=1, stable=True))
