"""What an objective is, and those that teach with the true captions."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from captioner.models.encoder_decoder import EncoderDecoder
from captioner.text.vocabulary import UNK
from captioner.training.losses import LossSum, cross_entropy, doubly_stochastic
from captioner.types import Batch, State, select_state

Schedule = Callable[[float], float]
"""(p: share of the steps that are done, 0 to 1) → share of own words, 0 to 1."""

_STEEPNESS = 10.0  # of the inverse sigmoid: a tenth of the way up at p = 0.28, nine tenths at 0.72


def linear(share: float) -> Schedule:
    """In proportion to the steps."""
    return lambda p: share * p


def exponential(share: float) -> Schedule:
    """True words decay exponentially: fast at first."""
    return lambda p: 1 - (1 - share) ** p


def inverse_sigmoid(share: float) -> Schedule:
    """Slow, then fast, then slow."""
    low, high = _sigmoid(-_STEEPNESS / 2), _sigmoid(_STEEPNESS / 2)
    return lambda p: share * (_sigmoid(_STEEPNESS * (p - 0.5)) - low) / (high - low)


def constant(share: float) -> Schedule:
    """The same from beginning to end."""
    return lambda p: share


def _sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


class Objective(nn.Module):
    """A way of teaching: a module around the model, and what several GPUs wrap. Called, it gives a batch's loss."""

    def __init__(self, model: EncoderDecoder) -> None:
        super().__init__()
        self.model = model
        self.progress = 0.0  # share of the phase's steps taken: set before each
        self.noted: dict[
            str, float
        ] = {}  # what the log should say of the last step besides its loss

    def count(self, batch: Batch) -> Tensor:
        """Say how many things the loss is a sum of, before it is known."""
        raise NotImplementedError


class TeacherForcing(Objective):
    """Show the true caption so far, ask for its next word.

    While it trains, a share `word_dropout` of the words shown is <unk> instead (Bowman et al. 2016, "Generating
    sentences from a continuous space", section 3.1), and attention is asked to look at every place about equally often
    in the course of a caption, with weight `attention_penalty` (Xu et al. 2015, equation 14).

    Williams and Zipser 1989, "A learning algorithm for continually running fully recurrent neural networks".
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
        self.attention_penalty = attention_penalty

    def count(self, batch: Batch) -> Tensor:
        """Words to say."""
        return batch.target_mask.sum()

    def forward(self, batch: Batch) -> LossSum:
        """Cross-entropy of every real word, summed."""
        state = select_state(self.model.init_state(batch.source), batch.source_index)  # (N, ...)
        inputs = self.shown(batch, state)
        if self.training and self.word_dropout:
            dropped = torch.rand(inputs.shape, device=inputs.device) < self.word_dropout
            dropped[:, 0] = False  # <bos> is no word
            inputs = inputs.masked_fill(dropped, UNK)
        output = self.model.decoder(inputs, batch.target_mask, state)
        targets = batch.targets[batch.target_mask]  # (M,)
        smoothing = self.label_smoothing if self.training else 0.0
        loss = cross_entropy(
            output.hidden, self.model.decoder.output, targets, label_smoothing=smoothing
        )
        if self.training and output.weights is not None:
            loss = loss.plus(
                self.attention_penalty * doubly_stochastic(output.weights, batch.target_mask)
            )
        return loss

    def shown(self, batch: Batch, state: State) -> Tensor:
        """Give the words (N, T-1) that are shown: here the true ones."""
        return batch.inputs


class ScheduledSampling(TeacherForcing):
    """Show some of the model's own words in place of the true ones, more and more of them, and ask for the true next.

    Which words are shown is found out step by step, without gradients; then the captions are read at once, as ever.
    An own word is the likeliest one. With a schedule of 0 this is teacher forcing, with one of 1 free running.

    Bengio et al. 2015, "Scheduled sampling for sequence prediction with recurrent neural networks".
    """

    def __init__(
        self,
        model: EncoderDecoder,
        schedule: Schedule,
        *,
        label_smoothing: float = 0.0,
        word_dropout: float = 0.0,
        attention_penalty: float = 0.0,
    ) -> None:
        super().__init__(
            model,
            label_smoothing=label_smoothing,
            word_dropout=word_dropout,
            attention_penalty=attention_penalty,
        )
        self.schedule = schedule

    @torch.no_grad()
    def shown(self, batch: Batch, state: State) -> Tensor:
        """Give the words (N, T-1) that are shown: true ones and own ones mixed."""
        share = self.schedule(self.progress)
        self.noted = {"own_words": share}
        if share == 0:
            return batch.inputs
        true = batch.inputs
        own = torch.rand(true.shape, device=true.device) < share
        words = [true[:, 0]]
        for place in range(1, true.shape[1]):
            log_probs, state = self.model.step(words[-1], state)
            words.append(torch.where(own[:, place], log_probs.argmax(dim=1), true[:, place]))
        return torch.stack(words, dim=1)
