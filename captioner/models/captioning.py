"""Encoder and decoder together: the model that is trained, saved and asked for captions."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from captioner.models.decoder import RecurrentDecoder
from captioner.models.encoder import ImageEncoder
from captioner.types import Batch, Memory, Reading, State, select_state


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

    def listen(self, batch: Batch, state: State) -> Reading:
        """Read before each of the M real words to say, in the order of `batch.targets[batch.target_mask]`.

        `state` is that of the images before the first word: each is handed to all its captions. `batch.source` is not
        looked at.
        """
        reading: Reading = self.decoder(batch.inputs, batch.target_mask, select_state(state, batch.owner))
        return reading

    def encode(self, source: Tensor) -> Memory:
        """(B, 3, height, width) uint8 images, or (B, P, C) cached features → memory."""
        memory: Memory = self.encoder(source)
        return memory

    def begin(self, source: Tensor) -> State:
        """State before the first word, (B, ...) in each part."""
        return self.start(self.encode(source))

    def start(self, memory: Memory) -> State:
        """State before the first word, of what was seen already."""
        return self.decoder.start(memory)

    def step(self, words: Tensor, state: State) -> tuple[Tensor, State]:
        """Log-probabilities (N, V) of the word after `words` (N,), and the new state: what a search needs."""
        hidden, state = self.decoder.step(words, state)
        return self._log_probs(hidden), state

    def read(self, batch: Batch, state: State) -> Tensor:
        """Log-probabilities (M,) of the words of given captions, in the order of `batch.targets[batch.target_mask]`.

        `state` is that before the first word of each image; `batch.source` is not looked at.
        """
        hidden = self.listen(batch, state).hidden  # (M, D)
        words = batch.targets[batch.target_mask]
        chunks = zip(torch.split(hidden, _CHUNK), torch.split(words, _CHUNK), strict=True)
        return torch.cat([self._log_probs(part).gather(1, said.unsqueeze(1)).squeeze(1) for part, said in chunks])

    def _log_probs(self, hidden: Tensor) -> Tensor:
        logits: Tensor = self.decoder.output(hidden)
        return logits.float().log_softmax(dim=-1)


_CHUNK = 1024  # words projected onto the vocabulary at a time, so that memory does not grow with the captions
