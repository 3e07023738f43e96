"""The settings of training: its phases, each with an objective, and all that they share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from captioner.config.schema import (
    MEAN,
    AugmentationName,
    Count,
    CountOrZero,
    Fraction,
    NonNegative,
    ObjectiveName,
    Positive,
    RewardName,
    ScheduleName,
    Section,
    Seed,
    Share,
)
from captioner.devices import PrecisionName


class ScheduledSamplingConfig(Section):
    """How often the decoder input is a generated word, not the true one; Bengio et al. 2015."""

    schedule: Annotated[ScheduleName, Field(description="How the share grows.")] = "linear"
    share: Annotated[Fraction, Field(description="Share at the end of the phase.")] = 0.25


class SelfCriticalConfig(Section):
    """The generated captions, their reward and its baseline; Rennie et al. 2017."""

    candidates: Annotated[
        Literal["beam", "sample"], Field(description="Find captions by beam search, or sample.")
    ] = "beam"
    samples: Annotated[Count, Field(description="Captions of each image or text.")] = 5
    baseline: Annotated[
        Literal["mean", "greedy"], Field(description="Mean reward of the others, or greedy.")
    ] = "mean"
    reward: Annotated[
        dict[RewardName, NonNegative], Field(description="Metrics with their weights.")
    ] = {"CIDEr": 1.0}  # noqa: RUF012  # pydantic copies it

    @model_validator(mode="after")
    def _check_computable(self) -> SelfCriticalConfig:
        if self.baseline == "mean" and self.samples < 2:
            raise ValueError("baseline mean needs at least two samples: set samples to 2 or more")
        if not any(self.reward.values()):
            raise ValueError("no metric has a weight: set reward to {CIDEr: 1}, for example")
        return self


class PhaseConfig(Section):
    """A part of the training with one objective, one set of trained layers and one schedule."""

    objective: Annotated[
        ObjectiveName, Field(description="The loss: see training/objectives.py.")
    ] = "teacher_forcing"
    scheduled_sampling: ScheduledSamplingConfig = ScheduledSamplingConfig()
    self_critical: SelfCriticalConfig = SelfCriticalConfig()
    epochs: Annotated[Count, Field(description="Epochs of this phase.")] = 10
    learning_rate: Annotated[
        Positive, Field(description="Peak learning rate: warm-up, then a cosine to zero.")
    ] = 1e-3
    warmup: Annotated[Share, Field(description="Share of steps for warm-up.")] = 0.1
    finetune_from: Annotated[
        str | None, Field(description="First trunk stage that is trained; stem: all; none: frozen.")
    ] = None
    trunk_learning_rate: Annotated[
        Positive, Field(description="Peak learning rate of the trunk.")
    ] = 1e-4
    augmentation: Annotated[AugmentationName | None, Field(description="Random crops.")] = None


class TrainingConfig(Section):
    """How the model is trained."""

    phases: Annotated[tuple[PhaseConfig, ...], Field(description="The phases, in order.")] = (
        PhaseConfig(),
    )
    batch_size: Annotated[Count, Field(description="Images or texts per step, over all ranks.")] = (
        64
    )
    accumulate: Annotated[
        Count | Literal["auto"], Field(description="Micro-batches per step; auto: as few as fit.")
    ] = 1
    max_steps: Annotated[Count | None, Field(description="Stop after this many steps.")] = None
    validate_every: Annotated[Count | None, Field(description="In steps; none: each epoch.")] = None
    checkpoint_every: Annotated[
        Count | None, Field(description="In steps; none: as validation.")
    ] = None
    keep_checkpoints: Annotated[Count, Field(description="Newest checkpoints to keep.")] = 2
    early_stopping: Annotated[
        Count | None, Field(description="Validations without a better score before stopping.")
    ] = None
    select_by: Annotated[
        str, Field(description="The dev source whose score chooses the best model; mean: of all.")
    ] = MEAN
    validation_beam: Annotated[Count, Field(description="Beams in validation.")] = 1
    label_smoothing: Annotated[Share, Field(description="Label smoothing of the loss.")] = 0.0
    word_dropout: Annotated[Share, Field(description="Share of input words made <unk>.")] = 0.0
    attention_penalty: Annotated[
        NonNegative | None,
        Field(description="Weight of the doubly stochastic loss; none: 1 for images, 0 for text."),
    ] = None
    ema: Annotated[
        Share, Field(description="Decay of the moving average of the weights; 0: off.")
    ] = 0.0
    glove: Annotated[Path | None, Field(description="GloVe vectors to start from.")] = None
    weight_decay: Annotated[NonNegative, Field(description="Weight decay of AdamW.")] = 1e-4
    gradient_clip: Annotated[Positive, Field(description="Largest gradient norm.")] = 5.0
    cache_features: Annotated[
        bool, Field(description="Keep features of a frozen trunk, unless augmented.")
    ] = True
    cached_crops: Annotated[
        CountOrZero, Field(description="Also keep features of this many mild crops per image.")
    ] = 0
    precision: Annotated[PrecisionName, Field(description="auto: bf16 if it is faster.")] = "auto"
    workers: Annotated[
        CountOrZero | None, Field(description="Processes that read images; none: one per core.")
    ] = None
    worker_timeout: Annotated[
        NonNegative, Field(description="Seconds to wait for a worker's batch; 0: no limit.")
    ] = 45.0
    seed: Annotated[Seed, Field(description="Seed of all random numbers.")] = 0

    @field_validator("batch_size", mode="before")
    @classmethod
    def _refuse_auto(cls, value: object) -> object:
        if value == "auto":
            raise ValueError(
                "give the number of images per step; accumulate=auto finds how many fit into memory"
            )
        return value
