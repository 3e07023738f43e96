"""Which part of an image each word of its caption hangs on: what becomes of the word when that part is hidden."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from captioner.captions import Heat
from captioner.data.batching import pad
from captioner.text.vocabulary import BOS, EOS
from captioner.types import Batch, Speaker

GRID = 7
_GREY = (124, 116, 104)  # ImageNet's mean, which the encoder sees as nothing


def occlusion(speaker: Speaker, images: Tensor, captions: Sequence[Sequence[int]]) -> list[list[Heat]]:
    """Give for each image (3, height, width) a map for each word of its caption.

    A grey square, two cells of the grid wide, hides one part after the other, and the caption is read again with each
    (Zeiler and Fergus 2014, section 4.2): one batch of `GRID` x `GRID` + 1 images for each image.
    """
    return [_heat(speaker, image, list(words)) for image, words in zip(images, captions, strict=True)]


def _heat(speaker: Speaker, image: Tensor, words: list[int]) -> list[Heat]:
    variants = torch.cat([image.unsqueeze(0), _hidden(image)])  # (1 + GRID * GRID, 3, height, width)
    tokens, mask = pad([[BOS, *words, EOS]] * len(variants))
    owner = torch.arange(len(variants), device=image.device)
    one = torch.zeros_like(owner)  # all are variants of one image
    batch = Batch(variants, tokens.to(image.device), mask.to(image.device), owner, one)
    log_probs = speaker.read(batch, speaker.begin(variants)).view(len(variants), -1)  # (1 + GRID * GRID, T)
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
