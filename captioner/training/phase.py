"""A phase of a run: one objective, one choice of trainable layers, one learning rate schedule."""

from __future__ import annotations

import gc
from dataclasses import dataclass, field
from typing import NoReturn

import torch
from torch import nn

from captioner.config.training import PhaseConfig, TrainingConfig
from captioner.console import console
from captioner.data.batching import EpochBatchSampler, Loader
from captioner.distributed import Ranks
from captioner.training.checkpoint import Progress, get_rng_states, resume_hint, set_rng_states
from captioner.training.failures import SignalHandler, is_out_of_memory
from captioner.training.loop import group_micro_batches, train_step
from captioner.training.objectives import Objective, ObjectiveOutput
from captioner.training.optim import EMA, set_learning_rate
from captioner.training.recorder import Recorder
from captioner.types import Batch


def smallest_micro_batch(module: nn.Module) -> int:
    """Return the least number of examples in a micro-batch: two if batch norms learn from them.

    Ioffe and Szegedy 2015, "Batch normalization", section 3.1: one value has no variance.
    """
    norms = (each for each in module.modules() if isinstance(each, nn.BatchNorm2d))
    return 2 if any(norm.training for norm in norms) else 1


class StepRollback:
    """A copy of the state that a forward pass changes: random states and batch norm statistics.

    Create it before the step; `restore` undoes a step that failed.
    """

    def __init__(self, module: nn.Module, device: torch.device) -> None:
        self.module, self.device = module, device
        self.rng_states = get_rng_states(device)
        self.buffers = [(buffer, buffer.clone()) for buffer in module.buffers()]

    def restore(self) -> None:
        """Set everything back, and free the memory that the step took."""
        set_rng_states(self.rng_states, self.device)
        for buffer, saved in self.buffers:
            buffer.copy_(saved)
        self.module.zero_grad(set_to_none=True)
        gc.collect()
        torch.cuda.empty_cache()  # without a GPU in use, this does nothing


@dataclass
class Phase:
    """Takes the remaining steps of a phase, and advances `progress` with each."""

    config: PhaseConfig
    settings: TrainingConfig
    objective: Objective
    optimizer: torch.optim.Optimizer
    sampler: EpochBatchSampler
    train_loader: Loader
    dev_loader: Loader
    average: EMA
    progress: Progress
    recorder: Recorder
    ranks: Ranks
    signals: SignalHandler
    # Undoes the step that is being taken; None between steps, and if accumulate is not auto.
    _rollback: StepRollback | None = field(default=None, init=False)

    @property
    def is_last(self) -> bool:
        """Whether the run ends with this phase."""
        return self.progress.phase == len(self.settings.phases) - 1 or self._reached_max_steps

    @property
    def _reached_max_steps(self) -> bool:
        return self.settings.max_steps is not None and self.progress.step >= self.settings.max_steps

    @property
    def _is_out_of_patience(self) -> bool:
        patience = self.settings.early_stopping
        return patience is not None and self.progress.validations_since_best >= patience

    def _is_complete(self) -> bool:
        return self._reached_max_steps or self._is_out_of_patience

    def end_reason(self) -> str:
        """Return why this phase takes no further step, and the setting that would change it."""
        if self._reached_max_steps:
            return f"training.max_steps={self.settings.max_steps} is reached; a larger one goes on"
        if self._is_out_of_patience:
            return (
                f"the last {self.progress.validations_since_best} validations were not better than "
                f"the best one (training.early_stopping={self.settings.early_stopping}); "
                "a larger number goes on"
            )
        return f"all {self.config.epochs} epochs of the last phase are done; more epochs go on"

    def run(self) -> None:
        """Take all steps that are left, and save a checkpoint of the last one.

        Raises:
            Interrupted: a signal stopped the run, after a checkpoint was saved.
        """
        objective = self.ranks.wrap(self.objective).train()
        with self.signals:
            while self.progress.epoch < self.config.epochs and not self._is_complete():
                if self.ranks.any(self.signals.stop_requested()):
                    self._stop()  # even if an epoch takes no step
                self._run_epoch(objective)
            if self.is_last and self.progress.validated_step != self.progress.step:
                self._validate()
            if not self.is_last and self.ranks.any(self.signals.stop_requested()):
                self._stop()
            self.recorder.checkpoint(self.optimizer)

    def _run_epoch(self, objective: nn.Module) -> None:
        earlier_phases = self.settings.phases[: self.progress.phase]
        self.sampler.epoch = sum(phase.epochs for phase in earlier_phases) + self.progress.epoch
        with self.recorder.epoch(self.config.epochs, self.sampler.num_batches):
            self._validate_and_save()  # due already, if a signal came before a validation
            while not self._is_complete() and not self._take_steps(objective):
                self._use_smaller_micro_batches()
        if self.progress.batch >= self.sampler.num_batches:
            self._end_epoch()

    def _end_epoch(self) -> None:
        validates_each_epoch = self.settings.validate_every is None
        if validates_each_epoch:
            self._validate()
        self.progress.epoch, self.progress.batch = self.progress.epoch + 1, 0
        if validates_each_epoch and self.settings.checkpoint_every is None:
            self.recorder.checkpoint(self.optimizer)

    def _take_steps(self, objective: nn.Module) -> bool:
        """Take the steps that are left of the epoch.

        Return False if one ran out of memory that can be taken in smaller micro-batches.
        """
        accumulate = self.settings.accumulate
        size = self.progress.micro_batches if accumulate == "auto" else accumulate
        self.sampler.first_batch, self.sampler.micro_batches = self.progress.batch, size
        try:
            for micro_batches in group_micro_batches(self.train_loader, size):
                self._take_step(objective, micro_batches)
                if self._is_complete():
                    break
        except (MemoryError, RuntimeError) as error:
            smallest = self.sampler.num_rows // self.sampler.num_batches // (2 * size)
            can_be_smaller = smallest >= smallest_micro_batch(self.objective)
            if self._rollback is None or not can_be_smaller or not is_out_of_memory(error):
                raise
            return False
        return True

    def _use_smaller_micro_batches(self) -> None:
        # After the `except` clause: the error's traceback kept the memory of the failed step.
        assert self._rollback is not None
        self._rollback.restore()
        self.progress.micro_batches *= 2
        console.print(
            f"out of memory: batches are processed in {self.progress.micro_batches} micro-batches "
            "from here on"
        )

    def _take_step(self, objective: nn.Module, micro_batches: list[Batch]) -> None:
        if self.settings.accumulate == "auto":
            self._rollback = StepRollback(self.objective, self.ranks.device)
        output, learning_rate = self._update_weights(objective, micro_batches)
        self._rollback = None
        self.average.update()
        self.progress.step += 1
        self.progress.batch += 1
        captions = sum(len(batch.tokens) for batch in micro_batches) * self.ranks.world_size
        self.recorder.step(
            output,
            objective=self.config.objective,
            captions=captions,
            learning_rate=learning_rate,
        )
        if self.signals.all_ranks_stop():
            self._stop()
        self._validate_and_save()

    def _update_weights(
        self, objective: nn.Module, micro_batches: list[Batch]
    ) -> tuple[ObjectiveOutput, float]:
        """Take a step; return its loss and its learning rate."""
        num_batches, warmup = self.sampler.num_batches, self.config.warmup
        step = self.progress.epoch * num_batches + self.progress.batch  # of the phase
        steps = self.config.epochs * num_batches
        learning_rate = set_learning_rate(self.optimizer, step=step, steps=steps, warmup=warmup)
        output = train_step(
            objective,
            self.optimizer,
            micro_batches,
            count=self.objective.count,
            ranks=self.ranks,
            precision=self.settings.precision,
            gradient_clip=self.settings.gradient_clip,
            progress=step / steps,
        )
        return output, learning_rate

    def _validate_and_save(self) -> None:
        """Validate and save a checkpoint if either is due at this step and not done."""
        step, settings = self.progress.step, self.settings
        must_validate = settings.validate_every and step % settings.validate_every == 0
        if must_validate and self.progress.validated_step != step:
            self._validate()
        is_validated, every = self.progress.validated_step == step, settings.checkpoint_every
        must_save = is_validated if every is None else step % every == 0
        if must_save:
            self.recorder.checkpoint(self.optimizer)

    def _validate(self) -> None:
        if not self.recorder.validate(self.dev_loader, stop=self.signals.stop_requested):
            self._stop()

    def _stop(self) -> NoReturn:
        """Save a checkpoint, print how to resume, and end the program."""
        self.recorder.checkpoint(self.optimizer)
        console.print(
            f"stopped after step {self.progress.step}: {resume_hint(self.recorder.output)}"
        )
        raise self.signals.interruption()
