"""Which part of an image each word of its caption hangs on: where attention looked to say it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor

from captioner.captions import Heat
from captioner.data.batching import pad
from captioner.models.encoder_decoder import CaptioningModel
from captioner.text.vocabulary import BOS, EOS
from captioner.types import Batch, State


def attention(
    model: CaptioningModel, images: Tensor, state: State, captions: Sequence[Sequence[int]]
) -> list[list[Heat]]:
    """Give for each image a map for each word of its caption, in the shape of the CNN's last map, which is square.

    `state` is what a search began with. The captions are read from it once more, all at once: attention then weighs
    the places as it did in decoding, and no image is looked at again. For a model with attention only.

    Such maps are from Xu et al. 2015, "Show, attend and tell".
    """
    tokens, mask = pad([[BOS, *words, EOS] for words in captions])
    number = torch.arange(len(captions))  # each caption is of its own image
    batch = Batch(images, tokens, mask, number, number).to(images.device)
    weights = cast(Tensor, model.listen(batch, state).weights)  # (M, P)
    side = math.isqrt(weights.shape[1])
    each = torch.split(weights.cpu().view(-1, side, side), [len(words) + 1 for words in captions])
    return [[tuple(map(tuple, word)) for word in maps[:-1].tolist()] for maps in each]  # the last is that of <eos>
