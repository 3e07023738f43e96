"""Heat maps for the words of captions: from attention weights, or from occlusion of the image.

Attention (Xu et al. 2015, "Show, attend and tell") explains a single model that has it, at the cost
of one more pass over the captions. Occlusion (Zeiler and Fergus 2014, section 4.2) explains every
other model, and ensembles, because the attention weights of their models differ. It takes about 50
times longer than captioning.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import cast

import torch
from torch import Tensor

from captioner.captions import Caption, Explanation, HeatMap
from captioner.data.batching import pad
from captioner.models.context import AdditiveAttention
from captioner.models.encoder_decoder import EncoderDecoder
from captioner.text.tokenizer import BOS, EOS
from captioner.types import Batch, State, StepModel, select_state

GRID = 7  # rows and columns of an occlusion map
_GREY = (124, 116, 104)  # ImageNet's mean colour, which preprocessing maps to about 0


def explain_captions(
    model: StepModel,
    images: Tensor,
    state: State,
    captions: Sequence[Caption],
    token_ids: Sequence[Sequence[int]],
) -> list[Caption]:
    """Return captions whose words have heat maps; abstained captions are returned unchanged.

    Args:
        model: the model that generated the captions.
        images: (B, 3, height, width).
        state: of the images, before the first token.
        captions: one for each image.
        token_ids: those of each caption, without <bos> and <eos>.
    """
    shown = [row for row, caption in enumerate(captions) if not caption.abstained]
    if not shown:
        return list(captions)
    rows = torch.tensor(shown, device=images.device)
    images, state = images[rows], select_state(state, rows)
    token_ids = [token_ids[row] for row in shown]
    explanation, heat_maps = _explain(model, images, state, token_ids)
    explained = list(captions)
    for row, maps in zip(shown, heat_maps, strict=True):
        pairs = zip(captions[row].words, maps, strict=True)
        words = tuple(replace(word, heat=heat) for word, heat in pairs)
        explained[row] = replace(captions[row], words=words, explanation=explanation)
    return explained


def _explain(
    model: StepModel, images: Tensor, state: State, token_ids: Sequence[Sequence[int]]
) -> tuple[Explanation, list[list[HeatMap]]]:
    """Return the kind of the heat maps that suits the model, and those of each caption."""
    if isinstance(model, EncoderDecoder) and isinstance(model.decoder.context, AdditiveAttention):
        return "attention", attention_maps(model, images, state, token_ids)
    pairs = zip(images, token_ids, strict=True)
    return "occlusion", [occlusion_maps(model, image, ids) for image, ids in pairs]


def attention_maps(
    model: EncoderDecoder, images: Tensor, state: State, token_ids: Sequence[Sequence[int]]
) -> list[list[HeatMap]]:
    """Return the attention weights of each word of each caption, as a map of the square grid.

    The captions are decoded once more from `state`, all at once, which yields the same weights as
    during the search. No image is encoded again.
    """
    tokens, mask = pad([[BOS, *ids, EOS] for ids in token_ids])  # (B, T)
    index = torch.arange(len(token_ids))  # caption i describes image i
    batch = Batch(images, tokens, mask, index, index).to(images.device)
    weights = cast(Tensor, model.decode(batch, state).weights)  # (M, P)
    side = math.isqrt(weights.shape[1])
    maps = weights.cpu().view(-1, side, side)  # (M, side, side)
    per_caption = torch.split(maps, [len(ids) + 1 for ids in token_ids])  # with <eos>
    return [_heat_maps(each[:-1]) for each in per_caption]


def occlusion_maps(model: StepModel, image: Tensor, token_ids: Sequence[int]) -> list[HeatMap]:
    """Return a `GRID` x `GRID` map for each word of the caption of an image (3, height, width).

    An entry is the decrease of the word's log-probability (natural logarithm) when a grey square,
    centred on that cell and two cells wide, hides a part of the image.
    """
    variants = torch.cat([image.unsqueeze(0), _occluded(image)])  # (1 + GRID², 3, height, width)
    tokens, mask = pad([[BOS, *token_ids, EOS]] * len(variants))  # (1 + GRID², T)
    source_index = torch.arange(len(variants))
    example_index = torch.zeros_like(source_index)  # all are variants of one image
    batch = Batch(variants, tokens, mask, source_index, example_index).to(image.device)
    log_probs = model.log_probs(batch, model.init_state(variants))  # (M,)
    log_probs = log_probs.view(len(variants), -1)  # (1 + GRID², T-1)
    decrease = log_probs[0] - log_probs[1:]  # (GRID², T-1)
    return _heat_maps(decrease.t().reshape(-1, GRID, GRID)[:-1])  # without <eos>


def _occluded(image: Tensor) -> Tensor:
    """Return (GRID², 3, height, width): the image with each cell of the grid hidden, by rows."""
    height, width = image.shape[1:]
    variants = image.repeat(GRID * GRID, 1, 1, 1)
    grey = image.new_tensor(_GREY).view(3, 1, 1)
    for number, variant in enumerate(variants):
        row, column = divmod(number, GRID)
        variant[:, _span(row, height), _span(column, width)] = grey
    return variants


def _span(cell: int, size: int) -> slice:
    """Return the pixels from half a cell before a cell to half a cell after it."""
    return slice(max(0, round((cell - 0.5) * size / GRID)), round((cell + 1.5) * size / GRID))


def _heat_maps(maps: Tensor) -> list[HeatMap]:
    """Return maps (words, rows, columns) as nested tuples."""
    return [tuple(map(tuple, heat)) for heat in maps.tolist()]
