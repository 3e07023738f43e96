"""Training objectives: the base class, and those whose targets are the reference captions."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import assert_never

import torch
from torch import Tensor, nn

from captioner.config.schema import ScheduleName
from captioner.models.encoder_decoder import EncoderDecoder
from captioner.text.tokenizer import UNK
from captioner.training.losses import LossSum, cross_entropy, doubly_stochastic_penalty
from captioner.types import Batch, State, select_state

Schedule = Callable[[float], float]
"""Share p of the phase's steps already taken, 0 to 1 -> share of inputs that the model generates.

1 minus the result is epsilon in Bengio et al. 2015, section 2.4: the probability of a true token.
"""

_STEEPNESS = 10.0  # of the inverse sigmoid: 10 % of its rise is reached at p = 0.29, 90 % at 0.71


def build_schedule(name: ScheduleName, share: float) -> Schedule:
    """Return the schedule that rises from 0 at p = 0 to `share` at p = 1.

    Each is a decay of epsilon_i in Bengio et al. 2015, section 2.4; i is the number of the step.
    """
    match name:
        case "linear":  # epsilon_i = k - c * i
            return lambda p: share * p
        case "exponential":  # epsilon_i = k ** i
            return lambda p: 1 - (1 - share) ** p
        case "inverse_sigmoid":  # epsilon_i = k / (k + exp(i / k)), scaled to end at `share`
            low, high = _sigmoid(-_STEEPNESS / 2), _sigmoid(_STEEPNESS / 2)
            return lambda p: share * (_sigmoid(_STEEPNESS * (p - 0.5)) - low) / (high - low)
        case other:
            assert_never(other)


def _sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


@dataclass(frozen=True)
class ObjectiveOutput:
    """The loss of a batch, and other metrics for the log of the run."""

    loss: LossSum
    metrics: Mapping[str, float] = field(default_factory=dict)


class Objective(nn.Module):
    """Base class: a module around the model whose `forward(batch, progress)` computes the loss.

    `progress` is the share of the phase's steps already taken, from 0 to 1. Under torchrun,
    DistributedDataParallel wraps the objective. Therefore everything that a step exchanges with it
    is an argument of `forward` or a part of the `ObjectiveOutput` that `forward` returns.
    """

    def __init__(self, model: EncoderDecoder) -> None:
        super().__init__()
        self.model = model

    def count(self, batch: Batch) -> Tensor:
        """Return the number of terms (scalar int64) that the loss of the batch will sum."""
        raise NotImplementedError


class TeacherForcing(Objective):
    """Predict each token of a reference caption from the tokens before it.

    Williams and Zipser 1989, "A learning algorithm for continually running fully recurrent neural
    networks". In training mode only:

    * label smoothing (Szegedy et al. 2016, "Rethinking the Inception architecture", section 7);
    * word dropout: a share of the input tokens becomes <unk> (Bowman et al. 2016, "Generating
      sentences from a continuous space", section 3.1);
    * the doubly stochastic penalty on attention (Xu et al. 2015, equation 14).
    """

    def __init__(
        self,
        model: EncoderDecoder,
        *,
        label_smoothing: float = 0.0,
        word_dropout: float = 0.0,
        attention_penalty: float = 0.0,
    ) -> None:
        super().__init__(model)
        self.label_smoothing, self.word_dropout = label_smoothing, word_dropout
        self.attention_penalty = attention_penalty  # lambda in Xu et al. 2015, equation 14

    def count(self, batch: Batch) -> Tensor:
        """Return the number of target tokens, M."""
        return batch.target_mask.sum()

    def forward(self, batch: Batch, progress: float = 0.0) -> ObjectiveOutput:
        """Compute the cross-entropy of the M target tokens, summed, plus the attention penalty."""
        # A source is encoded once; each of its captions starts from a copy of its state.
        memory = self.model.encode(batch.source)
        state = self.model.decoder.init_state(memory)  # (B, ...)
        state = select_state(state, batch.source_index)  # (N, ...)
        inputs = self.decoder_inputs(batch, state, progress)  # (N, T-1)
        if self.training and self.word_dropout:
            inputs = self._drop_words(inputs)
        output = self.model.decoder(inputs, batch.target_mask, state)  # hidden: (M, D)
        # Only real tokens reach the output layer: padding is left out here, not masked later.
        targets = batch.targets[batch.target_mask]  # (M,)
        smoothing = self.label_smoothing if self.training else 0.0
        loss = cross_entropy(
            output.hidden, self.model.decoder.output, targets, label_smoothing=smoothing
        )
        if self.training and output.weights is not None:  # (M, P): the decoder has attention
            # Xu et al. 2015, equation 14: the loss is -log p(caption) + lambda * penalty.
            source_mask = memory.mask[batch.source_index]  # (N, P)
            penalty = doubly_stochastic_penalty(output.weights, batch.target_mask, source_mask)
            penalty = self.attention_penalty * penalty
            parts = {**loss.penalties, "attention_penalty": penalty.detach()}
            loss = LossSum(loss.total + penalty, loss.count, parts)
        return ObjectiveOutput(loss)

    def decoder_inputs(self, batch: Batch, state: State, progress: float) -> Tensor:
        """Return the tokens (N, T-1) that the decoder reads: here those of the references."""
        return batch.inputs

    def _drop_words(self, inputs: Tensor) -> Tensor:
        dropped = torch.rand(inputs.shape, device=inputs.device) < self.word_dropout  # (N, T-1)
        dropped[:, 0] = False  # <bos> stays
        return inputs.masked_fill(dropped, UNK)


class ScheduledSampling(TeacherForcing):
    """Replace a growing share of the input tokens with those that the model predicts.

    Bengio et al. 2015, "Scheduled sampling for sequence prediction with recurrent neural networks".
    The model's token is its most probable one (their section 2.4 also allows to sample it). With a
    share of 0 this is teacher forcing; with a share of 1 it is free running.
    """

    def __init__(self, model: EncoderDecoder, schedule: Schedule, **teacher_forcing: float) -> None:
        super().__init__(model, **teacher_forcing)
        self.schedule = schedule

    def forward(self, batch: Batch, progress: float = 0.0) -> ObjectiveOutput:
        """Compute the loss, and the share of input tokens that the model generates."""
        output = super().forward(batch, progress)
        return ObjectiveOutput(output.loss, {"own_words": self.schedule(progress)})

    @torch.no_grad()
    def decoder_inputs(self, batch: Batch, state: State, progress: float) -> Tensor:
        """Return the decoder inputs (N, T-1): tokens of the references and generated tokens.

        This pass runs step by step without gradients. The decoder then reads the result in one
        call, with gradients, as in teacher forcing.
        """
        share, true = self.schedule(progress), batch.inputs  # 1 - epsilon, (N, T-1)
        if share == 0:  # teacher forcing: draw no random numbers
            return true
        # A coin is tossed for every token, not for every caption (Bengio et al. 2015, section 2.4).
        is_generated = torch.rand(true.shape, device=true.device) < share  # (N, T-1)
        inputs = [true[:, 0]]  # <bos>, (N,)
        for t in range(1, true.shape[1]):
            log_probs, state = self.model.step(inputs[-1], state)  # (N, V)
            predicted = log_probs.argmax(dim=1)  # (N,)
            inputs.append(torch.where(is_generated[:, t], predicted, true[:, t]))
        return torch.stack(inputs, dim=1)  # (N, T-1)
