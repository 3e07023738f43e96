"""Captions in which every word shows what it hangs on: by its model's attention, or by hiding parts of the image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from captioner.attention import attention
from captioner.captions import Caption, Explanation, Heat
from captioner.models.context import AdditiveAttention
from captioner.models.encoder_decoder import CaptioningModel
from captioner.occlusion import occlusion
from captioner.types import Speaker, State, select_state


def explain_captions(
    speaker: Speaker, images: Tensor, state: State, captions: Sequence[Caption], ids: Sequence[Sequence[int]]
) -> list[Caption]:
    """Give the words of each caption their heat; what is silent, and so not shown, stays as it is.

    One model with attention says itself where it looked, which costs one more reading of the captions. Of others, and
    of ensembles, whose members look each elsewhere, parts of the image are hidden: some 50 times the work.

    Args:
        speaker: what said the captions.
        images: (B, 3, height, width), a caption each.
        state: of the images, before the first word.
        captions: what was said.
        ids: their words, as numbers.
    """
    shown = [place for place, caption in enumerate(captions) if not caption.silent]
    if not shown:
        return list(captions)
    rows, said = torch.tensor(shown, device=images.device), [ids[place] for place in shown]
    heats: list[list[Heat]]
    way: Explanation
    if isinstance(speaker, CaptioningModel) and isinstance(speaker.decoder.context, AdditiveAttention):
        way, heats = "attention", attention(speaker, images[rows], select_state(state, rows), said)
    else:
        way, heats = "occlusion", occlusion(speaker, images[rows], said)
    explained = list(captions)
    for place, heat in zip(shown, heats, strict=True):
        words = tuple(replace(word, heat=own) for word, own in zip(captions[place].words, heat, strict=True))
        explained[place] = replace(captions[place], words=words, explanation=way)
    return explained
