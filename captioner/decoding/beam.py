"""Beam search, for all images of a batch at once. Knows a step, not a model."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from captioner.decoding.allocation import Beams, Pick, pick_continuations
from captioner.decoding.constraints import NEVER
from captioner.decoding.normalisation import Normalisation, average
from captioner.types import Hypothesis, State, Step, select_state


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
        return caption.log_prob / normalisation(len(caption.words) + 1)

    for _ in range(max_length):
        log_probs, state = step(beams.words, state)  # (R, V)
        pick = pick_continuations(
            beams, log_probs, places, width=width, groups=groups, diversity=diversity, required=required
        )
        beams, row = _continued(beams, pick, log_probs[pick.row, pick.word]), pick.row
        ended = beams.words == eos
        if ended.any():
            _keep(finished, beams.group[ended] // groups, beams.said[ended, :-1], beams.scores[ended])
            places = places - torch.zeros_like(places).index_add_(0, beams.group, ended.long().unsqueeze(1))
            beams, row = beams.select(~ended), row[~ended]
            if captions < beam:
                bars = [_bar(map(rank, found), captions) for found in finished]
                hopeful = _hopeful(beams.group // groups, beams.total / normalisation(max_length + 1), bars)
                beams, row = beams.select(hopeful), row[hopeful]
        if len(row) == 0:
            break
        state = select_state(state, row)
    else:
        log_probs, _ = step(beams.words, state)
        _keep(finished, beams.group // groups, beams.said, torch.cat([beams.scores, log_probs[:, eos : eos + 1]], 1))

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
    for image, words, log_probs in zip(images.tolist(), said.tolist(), scores.tolist(), strict=True):
        if all(words != other.words for other in finished[image]):  # groups may end up with the same caption
            finished[image].append(Hypothesis(words, log_probs))
