"""From a phase's settings to its objective: the only place that chooses one by its name."""

from __future__ import annotations

from collections.abc import Sequence
from typing import assert_never

import torch
from torch import Tensor

from captioner.config.schema import PhaseConfig, RewardName, ScheduledSamplingConfig, TrainingConfig
from captioner.data.datasets import Example
from captioner.metrics.reward import Reward
from captioner.models.encoder_decoder import EncoderDecoder
from captioner.text.tokenizer import tokenize
from captioner.text.vocabulary import Vocabulary
from captioner.training import self_critical
from captioner.training.objectives import (
    Objective,
    Schedule,
    ScheduledSampling,
    TeacherForcing,
    constant,
    exponential,
    inverse_sigmoid,
    linear,
)
from captioner.training.self_critical import SelfCritical


def build_objective(
    phase: PhaseConfig,
    settings: TrainingConfig,
    model: EncoderDecoder,
    vocabulary: Vocabulary,
    train: Sequence[Example],
    *,
    max_length: int,
) -> Objective:
    """Make what a phase makes small; `max_length` is of captions that the model draws, in words."""
    forced = {
        "label_smoothing": settings.label_smoothing,
        "word_dropout": settings.word_dropout,
        "attention_penalty": settings.attention_penalty,
    }
    match phase.objective:
        case "teacher_forcing":
            return TeacherForcing(model, **forced)
        case "scheduled_sampling":
            return ScheduledSampling(model, _schedule(phase.scheduled_sampling), **forced)
        case "free_running":
            return ScheduledSampling(model, constant(1.0), **forced)
        case "self_critical":
            asked = phase.self_critical
            reward = _reward(train, vocabulary, asked.reward)
            return SelfCritical(
                model,
                reward,
                candidates=asked.candidates,
                samples=asked.samples,
                baseline=asked.baseline,
                max_length=max_length,
            )
        case other:
            assert_never(other)


def _schedule(config: ScheduledSamplingConfig) -> Schedule:
    match config.schedule:
        case "linear":
            return linear(config.share)
        case "exponential":
            return exponential(config.share)
        case "inverse_sigmoid":
            return inverse_sigmoid(config.share)
        case other:
            assert_never(other)


def _reward(
    train: Sequence[Example], vocabulary: Vocabulary, weights: dict[RewardName, float]
) -> self_critical.Reward:
    """Count the references of the training split once, and score captions of word ids against them."""
    references = [[tokenize(caption) for caption in example.captions] for example in train]
    score = Reward(references, weights)

    def reward(images: Sequence[int], captions: Sequence[Sequence[int]]) -> Tensor:
        words = [vocabulary.decode(caption) for caption in captions]
        return torch.from_numpy(score(images, words)).float()

    return reward
