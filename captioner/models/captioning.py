"""Encoder and decoder together: the model that is trained, saved and asked for captions."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from captioner.models.decoder import RecurrentDecoder
from captioner.models.encoder import ImageEncoder
from captioner.types import Batch, Memory, State


class CaptioningModel(nn.Module):
    """See, then say."""

    def __init__(self, encoder: ImageEncoder, decoder: RecurrentDecoder) -> None:
        super().__init__()
        self.encoder = encoder
        self.decoder = decoder

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return self.decoder.output.weight.device

    def forward(self, batch: Batch) -> Tensor:
        """Hidden vectors (M, H) before each real word to say, in the order of `batch.targets[batch.target_mask]`.

        An image is encoded once, and its state handed to each of its captions.
        """
        state = self.decoder.start(self.encoder(batch.source))  # (B, L, H)
        state = tuple(part[batch.owner] for part in state)  # (N, L, H)
        hidden: Tensor = self.decoder(batch.inputs, batch.target_mask, state)
        return hidden

    def encode(self, source: Tensor) -> Memory:
        """(B, 3, height, width) uint8 images, or (B, P, C) cached features → memory."""
        memory: Memory = self.encoder(source)
        return memory

    def start(self, memory: Memory) -> State:
        """State before the first word: (B, L, H) in each part."""
        return self.decoder.start(memory)

    def step(self, words: Tensor, state: State) -> tuple[Tensor, State]:
        """Log-probabilities (N, V) of the word after `words` (N,), and the new state: what a search needs."""
        hidden, state = self.decoder.step(words, state)
        return self.decoder.output(hidden).float().log_softmax(dim=-1), state
