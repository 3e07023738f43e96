"""Captions in which every word shows what it hangs on: by its model's attention, or by hiding parts of the image."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import cast

import torch
from torch import Tensor

from captioner.captions import Caption, Explanation, Heat
from captioner.data.batching import pad
from captioner.models.context import AdditiveAttention
from captioner.models.encoder_decoder import EncoderDecoder
from captioner.text.vocabulary import BOS, EOS
from captioner.types import Batch, State, StepModel, select_state


def explain_captions(
    model: StepModel,
    images: Tensor,
    state: State,
    captions: Sequence[Caption],
    ids: Sequence[Sequence[int]],
) -> list[Caption]:
    """Give the words of each caption their heat; what is silent, and so not shown, stays as it is.

    One model with attention says itself where it looked, which costs one more reading of the captions. Of others, and
    of ensembles, whose members look each elsewhere, parts of the image are hidden: some 50 times the work.

    Args:
        model: what said the captions.
        images: (B, 3, height, width), a caption each.
        state: of the images, before the first word.
        captions: what was said.
        ids: their words, as numbers.
    """
    shown = [place for place, caption in enumerate(captions) if not caption.abstained]
    if not shown:
        return list(captions)
    rows, said = torch.tensor(shown, device=images.device), [ids[place] for place in shown]
    heats: list[list[Heat]]
    way: Explanation
    if isinstance(model, EncoderDecoder) and isinstance(model.decoder.context, AdditiveAttention):
        way, heats = "attention", attention(model, images[rows], select_state(state, rows), said)
    else:
        way, heats = "occlusion", occlusion(model, images[rows], said)
    explained = list(captions)
    for place, heat in zip(shown, heats, strict=True):
        words = tuple(
            replace(word, heat=own) for word, own in zip(captions[place].words, heat, strict=True)
        )
        explained[place] = replace(captions[place], words=words, explanation=way)
    return explained


def attention(
    model: EncoderDecoder, images: Tensor, state: State, captions: Sequence[Sequence[int]]
) -> list[list[Heat]]:
    """Give for each image a map for each word of its caption, in the shape of the CNN's last map, which is square.

    `state` is what a search began with. The captions are read from it once more, all at once: attention then weighs
    the places as it did in decoding, and no image is looked at again. For a model with attention only.

    Such maps are from Xu et al. 2015, "Show, attend and tell".
    """
    tokens, mask = pad([[BOS, *words, EOS] for words in captions])
    number = torch.arange(len(captions))  # each caption is of its own image
    batch = Batch(images, tokens, mask, number, number).to(images.device)
    weights = cast(Tensor, model.decode(batch, state).weights)  # (M, P)
    side = math.isqrt(weights.shape[1])
    each = torch.split(weights.cpu().view(-1, side, side), [len(words) + 1 for words in captions])
    return [
        [tuple(map(tuple, word)) for word in maps[:-1].tolist()] for maps in each
    ]  # the last is that of <eos>


GRID = 7
_GREY = (124, 116, 104)  # ImageNet's mean, which the encoder sees as nothing


def occlusion(
    model: StepModel, images: Tensor, captions: Sequence[Sequence[int]]
) -> list[list[Heat]]:
    """Give for each image (3, height, width) a map for each word of its caption.

    A grey square, two cells of the grid wide, hides one part after the other, and the caption is read again with each
    (Zeiler and Fergus 2014, section 4.2): one batch of `GRID` x `GRID` + 1 images for each image.
    """
    return [_heat(model, image, list(words)) for image, words in zip(images, captions, strict=True)]


def _heat(model: StepModel, image: Tensor, words: list[int]) -> list[Heat]:
    variants = torch.cat(
        [image.unsqueeze(0), _hidden(image)]
    )  # (1 + GRID * GRID, 3, height, width)
    tokens, mask = pad([[BOS, *words, EOS]] * len(variants))
    source_index = torch.arange(len(variants), device=image.device)
    one = torch.zeros_like(source_index)  # all are variants of one image
    batch = Batch(variants, tokens.to(image.device), mask.to(image.device), source_index, one)
    log_probs = model.log_probs(batch, model.init_state(variants)).view(
        len(variants), -1
    )  # (1 + GRID * GRID, T)
    lost = (log_probs[0] - log_probs[1:]).t().reshape(-1, GRID, GRID)  # (T, GRID, GRID)
    return [tuple(tuple(row) for row in word) for word in lost[: len(words)].tolist()]


def _hidden(image: Tensor) -> Tensor:
    """Hide one part after the other, row by row of the grid."""
    height, width = image.shape[1:]
    variants = image.repeat(GRID * GRID, 1, 1, 1)
    grey = image.new_tensor(_GREY).view(3, 1, 1)
    for number, variant in enumerate(variants):
        row, column = divmod(number, GRID)
        variant[:, _span(row, height), _span(column, width)] = grey
    return variants


def _span(cell: int, size: int) -> slice:
    """Pixels from half a cell before to half a cell after."""
    return slice(max(0, round((cell - 0.5) * size / GRID)), round((cell + 1.5) * size / GRID))
