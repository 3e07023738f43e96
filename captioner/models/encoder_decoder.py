"""Encoder and decoder together: the model that is trained, saved and asked for captions."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from captioner.models.decoder import RecurrentDecoder
from captioner.models.encoder import ImageEncoder
from captioner.types import Batch, DecoderOutput, Memory, State, StepModel, select_state


class EncoderDecoder(nn.Module):
    """See, then say."""

    def __init__(self, encoder: ImageEncoder, decoder: RecurrentDecoder) -> None:
        super().__init__()
        self.encoder = encoder
        self.decoder = decoder

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return self.decoder.output.weight.device

    def encode(self, source: Tensor) -> Memory:
        """Encode images (B, 3, height, width) uint8, or cached features (B, P, C)."""
        memory: Memory = self.encoder(source)
        return memory

    def init_state(self, source: Tensor) -> State:
        """Return the initial decoder state of images or cached features, (B, ...) in each part."""
        return self.decoder.init_state(self.encode(source))

    def decode(self, batch: Batch, state: State) -> DecoderOutput:
        """Run the decoder over every caption of a batch in one call (teacher forcing).

        Args:
            batch: its captions; `batch.source` is not read.
            state: the initial state of its images, (B, ...), handed to all captions of each.

        Returns:
            One row for each of the M real target tokens, ordered as `batch.targets[batch.target_mask]`.
        """
        state = select_state(state, batch.source_index)  # (N, ...)
        output: DecoderOutput = self.decoder(batch.inputs, batch.target_mask, state)
        return output

    def step(self, words: Tensor, state: State) -> tuple[Tensor, State]:
        """Log-probabilities (N, V) of the word after `words` (N,), and the new state: what a search needs."""
        hidden, state = self.decoder.step(words, state)
        return self._log_probs(hidden), state

    def log_probs(self, batch: Batch, state: State) -> Tensor:
        """Log-probabilities (M,) of the words of given captions, in the order of `batch.targets[batch.target_mask]`.

        `state` is that before the first word of each image; `batch.source` is not looked at.
        """
        hidden = self.decode(batch, state).hidden  # (M, D)
        words = batch.targets[batch.target_mask]
        chunks = zip(torch.split(hidden, _CHUNK), torch.split(words, _CHUNK), strict=True)
        return torch.cat(
            [self._log_probs(part).gather(1, said.unsqueeze(1)).squeeze(1) for part, said in chunks]
        )

    def _log_probs(self, hidden: Tensor) -> Tensor:
        logits: Tensor = self.decoder.output(hidden)
        return logits.float().log_softmax(dim=-1)


_CHUNK = 1024  # words projected onto the vocabulary at a time, so that memory does not grow with the captions


class Ensemble:
    """Average models of one vocabulary, which may differ in everything else.

    Its state is theirs, one after the other, so that a search handles it as any other.
    """

    def __init__(self, models: Sequence[StepModel]) -> None:
        self.models = list(models)
        self._parts: list[int] = []  # how many parts of the state are each model's

    def init_state(self, source: Tensor) -> State:
        """Look at images (B, 3, height, width) and give the states before the first word."""
        states = [model.init_state(source) for model in self.models]
        self._parts = [len(state) for state in states]
        return tuple(part for state in states for part in state)

    def step(self, words: Tensor, state: State) -> tuple[Tensor, State]:
        """Read one word (N,) and give the log-probabilities of the next, (N, V), with the new states."""
        found = [
            model.step(words, own)
            for model, own in zip(self.models, self._split(state), strict=True)
        ]
        return _mean([log_probs for log_probs, _ in found]), tuple(
            part for _, own in found for part in own
        )

    def log_probs(self, batch: Batch, state: State) -> Tensor:
        """Read whole captions and give the log-probability of each of their M words, (M,)."""
        states = self._split(state)
        return _mean(
            [model.log_probs(batch, own) for model, own in zip(self.models, states, strict=True)]
        )

    def _split(self, state: State) -> list[State]:
        ends = [sum(self._parts[: number + 1]) for number in range(len(self._parts))]
        return [state[end - count : end] for end, count in zip(ends, self._parts, strict=True)]


def _mean(log_probs: list[Tensor]) -> Tensor:
    """The logarithm of the mean probability."""
    return torch.stack(log_probs).logsumexp(dim=0) - math.log(len(log_probs))
