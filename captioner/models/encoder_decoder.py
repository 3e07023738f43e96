"""Encoder and RNN decoder, trained jointly; and ensembles of such models."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import islice
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from captioner.models.decoder import RecurrentDecoder
from captioner.types import Batch, DecoderOutput, Memory, State, StepModel, select_state

if TYPE_CHECKING:  # a model needs one of them only
    from captioner.models.encoder import ImageEncoder
    from captioner.models.text_encoder import TextEncoder

_CHUNK = 1024  # tokens whose (V,) logits are in memory at a time, in `log_probs`


class EncoderDecoder(nn.Module):
    """An encoder of images or texts, and the decoder that generates the text about them.

    With an image encoder it is the captioning model of Vinyals et al. 2015 and Xu et al. 2015; with
    a text encoder, the translation model of Sutskever et al. 2014 and Bahdanau et al. 2015. It is
    trained by the trainer, stored in model folders, and used by the searches.
    """

    def __init__(self, encoder: ImageEncoder | TextEncoder, decoder: RecurrentDecoder) -> None:
        super().__init__()
        self.encoder = encoder
        self.decoder = decoder

    @property
    def device(self) -> torch.device:
        """The device of the parameters."""
        return self.decoder.output.weight.device

    @property
    def state_parts(self) -> int:
        """The number of parts of the decoder state."""
        return self.decoder.state_parts

    def encode(self, source: Tensor) -> Memory:
        """Encode images (B, 3, height, width), their cached features (B, P, C) or texts (B, P)."""
        memory: Memory = self.encoder(source)  # summary (B, C), grid (B, P, C)
        return memory

    def init_state(self, source: Tensor) -> State:
        """Return the initial decoder state of sources, (B, ...) in each part: see `encode`."""
        return self.decoder.init_state(self.encode(source))

    def decode(self, batch: Batch, state: State) -> DecoderOutput:
        """Run the decoder over every caption of a batch (teacher forcing).

        Args:
            batch: its captions; `batch.source` is not read.
            state: the initial state of its sources, (B, ...), which a source's captions share.

        Returns:
            One row for each of the M real targets, ordered as `batch.targets[batch.target_mask]`.
        """
        state = select_state(state, batch.source_index)  # (N, ...)
        # the inputs are the true tokens, not the model's predictions (teacher forcing)
        output: DecoderOutput = self.decoder(batch.inputs, batch.target_mask, state)  # (M, D)
        return output

    def step(self, token_ids: Tensor, state: State) -> tuple[Tensor, State]:
        """Return log-probabilities (N, V) of the token after `token_ids` (N,), and the state."""
        features, state = self.decoder.step(token_ids, state)  # (N, D)
        return self._log_probs(features), state

    def log_probs(self, batch: Batch, state: State) -> Tensor:
        """Return the log-probability (M,) of every target token, ordered as in `decode`.

        `state` is the initial state of the batch's sources, (B, ...); `batch.source` is not read.
        """
        hidden = self.decode(batch, state).hidden  # (M, D)
        targets = batch.targets[batch.target_mask].unsqueeze(1)  # (M, 1)
        chunks = zip(torch.split(hidden, _CHUNK), torch.split(targets, _CHUNK), strict=True)
        # log p(y_t | y_1 ... y_t-1, source): Vinyals et al. 2015, equation 2
        picked = [self._log_probs(features).gather(1, target) for features, target in chunks]
        return torch.cat(picked).squeeze(1)  # (M, 1) → (M,)

    def _log_probs(self, features: Tensor) -> Tensor:
        logits: Tensor = self.decoder.output(features)  # (..., V)
        # the softmax over V in float32, also under autocast
        return logits.float().log_softmax(dim=-1)


class Ensemble:
    """Average the probabilities of models that share a vocabulary and may differ otherwise.

    Its state is the concatenation of the models' states, so a search handles it like any other.
    """

    def __init__(self, models: Sequence[StepModel]) -> None:
        self.models = list(models)

    @property
    def state_parts(self) -> int:
        """The number of parts of all models' states."""
        return sum(model.state_parts for model in self.models)

    def init_state(self, source: Tensor) -> State:
        """Return the initial states of sources (B, ...)."""
        return tuple(part for model in self.models for part in model.init_state(source))

    def step(self, token_ids: Tensor, state: State) -> tuple[Tensor, State]:
        """Return log-probabilities (N, V) of the token after `token_ids` (N,), and the states."""
        steps = [model.step(token_ids, own_state) for model, own_state in self.split(state)]
        new_state = tuple(part for _, own_state in steps for part in own_state)
        return _log_mean([log_probs for log_probs, _ in steps]), new_state  # (N, V)

    def log_probs(self, batch: Batch, state: State) -> Tensor:
        """Return the log-probability (M,) of every target token."""
        return _log_mean([model.log_probs(batch, own) for model, own in self.split(state)])

    def split(self, state: State) -> list[tuple[StepModel, State]]:
        """Return each model with its own parts of a state."""
        # every model knows the number of its parts, so nothing about the split is stored
        parts = iter(state)
        return [(model, tuple(islice(parts, model.state_parts))) for model in self.models]


def _log_mean(log_probs: list[Tensor]) -> Tensor:
    """Return log(mean(p)) for log-probabilities log(p)."""
    # log(1/K sum p_k) = logsumexp(log p_k) - log K, without underflow
    return torch.stack(log_probs).logsumexp(dim=0) - math.log(len(log_probs))
