"""Beam search, for all images of a batch at once. Knows a step, not a model."""

from __future__ import annotations

import torch
from torch import Tensor

from captioner.types import Hypothesis, State, Step, select_state


def beam_search(
    step: Step, state: State, *, bos: int, eos: int, max_length: int, beam: int, length_alpha: float = 1.0
) -> list[list[Hypothesis]]:
    """Find up to `beam` captions for each row of `state`, the best first.

    Captions are ranked by log-probability / words ** `length_alpha`, with <eos> counted as a word: 0 ranks by
    probability alone, which favours short captions, and 1 by its mean per word, which favours long ones.

    Each image has `beam` places. At every step its best continuations take them; one that ends in <eos> is kept apart
    and gives up its place, so the search is over when every place is given up, or at `max_length` words, where all
    captions are ended. Only beams that are alive are stepped. A beam of one is greedy search, and a beam as wide as the
    language is exhaustive search.
    """
    images, device = state[0].shape[0], state[0].device
    finished: list[list[Hypothesis]] = [[] for _ in range(images)]
    places = torch.full((images, 1), beam, device=device)  # still open
    # One row for each live beam; rows of an image stand together, in the order of their scores.
    owner = torch.arange(images, device=device)  # (R,) the image of each row
    slot = torch.zeros_like(owner)  # (R,) which of its image's beams a row is
    scores = torch.zeros(images, device=device)  # (R,)
    words = torch.full((images,), bos, device=device)  # (R,)
    said = torch.empty((images, 0), dtype=torch.int64, device=device)  # (R, words so far)

    for _ in range(max_length):
        log_probs, state = step(words, state)  # (R, V)
        top, choice = log_probs.topk(min(beam, log_probs.shape[1]), dim=1)  # (R, K)
        candidates = torch.full((images, beam, top.shape[1]), -torch.inf, device=device)
        candidates[owner, slot] = scores.unsqueeze(1) + top
        best, place = candidates.flatten(1).topk(min(beam, beam * top.shape[1]), dim=1)  # (images, K)
        order = torch.arange(best.shape[1], device=device)
        image, column = ((order < places) & best.isfinite()).nonzero(as_tuple=True)  # (R',) the rows to come
        row = _row_of(owner, slot, images, beam)[
            image, place[image, column] // top.shape[1]
        ]  # (R',) where they come from
        words = choice[row, place[image, column] % top.shape[1]]
        scores = best[image, column]
        ended = words == eos
        if ended.any():
            _keep(finished, image[ended], said[row[ended]], scores[ended])
            places = places - torch.zeros_like(places).index_add_(0, image[ended], ended[ended].long().unsqueeze(1))
            image, row, column, words, scores = (part[~ended] for part in (image, row, column, words, scores))
        if len(row) == 0:
            break
        owner, slot = image, column
        said = torch.cat([said[row], words.unsqueeze(1)], dim=1)
        state = select_state(state, row)
    else:
        log_probs, _ = step(words, state)
        _keep(finished, owner, said, scores + log_probs[:, eos])

    def rank(caption: Hypothesis) -> float:
        return caption.log_prob / float((len(caption.words) + 1) ** length_alpha)

    return [sorted(captions, key=rank, reverse=True) for captions in finished]


def _row_of(owner: Tensor, slot: Tensor, images: int, beam: int) -> Tensor:
    """(images, K) → the row of each live beam."""
    rows = torch.zeros((images, beam), dtype=torch.int64, device=owner.device)
    rows[owner, slot] = torch.arange(len(owner), device=owner.device)
    return rows


def _keep(finished: list[list[Hypothesis]], images: Tensor, said: Tensor, scores: Tensor) -> None:
    for image, words, score in zip(images.tolist(), said.tolist(), scores.tolist(), strict=True):
        finished[image].append(Hypothesis(words, score))
