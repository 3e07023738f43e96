"""Beam search, for all images of a batch at once. Knows a step, not a model."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from captioner.decoding.constraints import NEVER, missing_words
from captioner.types import Hypothesis, State, Step, select_state


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
    chosen = torch.zeros(
        (len(places) // groups, log_probs.shape[1]), device=log_probs.device
    )  # (images, V) how often
    picks = []
    for number in range(groups):
        rows = (beams.group % groups == number).nonzero().squeeze(1)
        penalised = log_probs[rows] - diversity * chosen[beams.group[rows] // groups]
        pick = _pick_best(
            beams.select(rows), penalised, places, rows, width=width, required=required
        )
        chosen.index_put_(
            (pick.group // groups, pick.word), torch.ones_like(chosen[0, 0]), accumulate=True
        )
        picks.append(pick)
    return Pick(*(torch.cat(parts) for parts in zip(*picks, strict=True)))


def _pick_best(
    beams: Beams,
    log_probs: Tensor,
    places: Tensor,
    rows: Tensor,
    *,
    width: int,
    required: Sequence[int],
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
        order = _deal_out(
            candidates.flatten(1), banks.flatten(1), len(required) + 1
        )  # (groups, all)
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
    twice = ((words.unsqueeze(2) == wanted) & missing.unsqueeze(1)).any(
        dim=2
    )  # they stand at the end anyway
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
    turn = (
        mine.cumsum(dim=1).gather(2, sorted_banks.unsqueeze(2)).squeeze(2)
    )  # from 1 within its bank
    key = turn * count + (count - 1 - sorted_banks)
    key = key.masked_fill(~able, torch.iinfo(torch.int64).max)
    return order.gather(1, key.argsort(dim=1, stable=True))


Normalisation = Callable[[int], float]
"""Words, with <eos> → what the log-probability is divided by; it never falls as captions grow."""


def none(words: int) -> float:
    """Rank by probability alone, which favours short captions."""
    return 1.0


def average(words: int) -> float:
    """Rank by the mean log-probability of a word, which favours long captions."""
    return float(words)


def wu(alpha: float) -> Normalisation:
    """Lie between the two: ((5 + words) / 6) ** alpha (Wu et al. 2016, equation 14)."""
    return lambda words: float(((5 + words) / 6) ** alpha)


def beam_search(
    step: Step,
    state: State,
    *,
    bos: int,
    eos: int,
    max_length: int,
    beam: int,
    captions: int | None = None,
    normalisation: Normalisation = average,
    groups: int = 1,
    diversity: float = 0.0,
    required: Sequence[int] = (),
) -> list[list[Hypothesis]]:
    """Find the best `captions` for each row of `state` (all `beam` of them if not given), the best first.

    Captions are ranked by log-probability / `normalisation`(words with <eos>). Each image has `beam` places. At every
    step its best continuations take them; one that ends in <eos> is kept apart and gives up its place, so the search is
    over when every place is given up, or at `max_length` words, where all captions are ended. An image is done earlier
    only if none of its beams could still become one of its best `captions`. Only beams that are alive are stepped. A
    beam of one is greedy search, and a beam as wide as the language is exhaustive search.

    With `groups`, the places are dealt out evenly, and each group in turn sees the words that groups before it chose
    for the same image and place `diversity` less likely for each time (Vijayakumar et al. 2018, Hamming diversity).
    Captions are ranked without that, and one that several groups found is given once.

    With `required` words, the places are dealt out evenly among captions that hold none of them, one, two and so on
    (Post and Vilar 2018, dynamic beam allocation). That no caption ends without them is the rule
    `captioner.decoding.constraints.require`, which `step` must obey.
    """
    images, device = state[0].shape[0], state[0].device
    captions = captions or beam
    finished: list[list[Hypothesis]] = [[] for _ in range(images)]
    width = beam // groups
    places = torch.full((images * groups, 1), width, device=device)  # still open
    first = torch.arange(images * groups, device=device)
    state = select_state(state, first // groups)
    beams = Beams(
        group=first,
        slot=torch.zeros_like(first),
        words=torch.full_like(first, bos),
        said=torch.empty((len(first), 0), dtype=torch.int64, device=device),
        scores=torch.empty((len(first), 0), device=device),
        total=torch.zeros(len(first), device=device),
    )

    def rank(caption: Hypothesis) -> float:
        return caption.log_prob / normalisation(len(caption.token_ids) + 1)

    for _ in range(max_length):
        log_probs, state = step(beams.words, state)  # (R, V)
        pick = pick_continuations(
            beams,
            log_probs,
            places,
            width=width,
            groups=groups,
            diversity=diversity,
            required=required,
        )
        beams, row = _continued(beams, pick, log_probs[pick.row, pick.word]), pick.row
        ended = beams.words == eos
        if ended.any():
            _keep(
                finished, beams.group[ended] // groups, beams.said[ended, :-1], beams.scores[ended]
            )
            places = places - torch.zeros_like(places).index_add_(
                0, beams.group, ended.long().unsqueeze(1)
            )
            beams, row = beams.select(~ended), row[~ended]
            if captions < beam:
                bars = [_bar(map(rank, found), captions) for found in finished]
                hopeful = _hopeful(
                    beams.group // groups, beams.total / normalisation(max_length + 1), bars
                )
                beams, row = beams.select(hopeful), row[hopeful]
        if len(row) == 0:
            break
        state = select_state(state, row)
    else:
        log_probs, _ = step(beams.words, state)
        _keep(
            finished,
            beams.group // groups,
            beams.said,
            torch.cat([beams.scores, log_probs[:, eos : eos + 1]], 1),
        )

    return [sorted(found, key=rank, reverse=True)[:captions] for found in finished]


def _continued(beams: Beams, pick: Pick, score: Tensor) -> Beams:
    """Write the winning words down."""
    return Beams(
        pick.group,
        pick.slot,
        pick.word,
        torch.cat([beams.said[pick.row], pick.word.unsqueeze(1)], dim=1),
        torch.cat([beams.scores[pick.row], score.unsqueeze(1)], dim=1),
        beams.total[pick.row] + score,
    )


def _bar(ranks: Iterable[float], captions: int) -> float:
    """What a caption must rank above to become one of the best `captions`."""
    best = sorted(ranks, reverse=True)[:captions]
    return best[-1] if len(best) == captions else NEVER


def _hopeful(images: Tensor, bounds: Tensor, bars: Sequence[float]) -> Tensor:
    """(R,) whether any beam of the row's image could still pass the image's bar.

    No caption to come ranks above its beam's log-probability today, which can only fall, over the largest divisor.
    """
    able = bounds > torch.tensor(bars, device=bounds.device)[images]
    image_is = torch.zeros(len(bars), dtype=torch.bool, device=bounds.device)
    image_is[images[able]] = True
    return image_is[images]


def _keep(finished: list[list[Hypothesis]], images: Tensor, said: Tensor, scores: Tensor) -> None:
    for image, words, log_probs in zip(
        images.tolist(), said.tolist(), scores.tolist(), strict=True
    ):
        if all(
            words != other.token_ids for other in finished[image]
        ):  # groups may end up with the same caption
            finished[image].append(Hypothesis(words, log_probs))
