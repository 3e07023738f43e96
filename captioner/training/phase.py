"""One phase of a run: epochs of steps, with what is to be written down between them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import NoReturn

import torch

from captioner.config.schema import PhaseConfig, TrainingConfig
from captioner.console import console
from captioner.data.batching import EpochSampler
from captioner.data.loading import Loader
from captioner.distributed import Ranks
from captioner.training.averaging import MovingAverage
from captioner.training.checkpoint import Progress, way_on
from captioner.training.interrupts import Interrupts
from captioner.training.loop import fit, in_groups
from captioner.training.losses import LossSum
from captioner.training.memory import Retreat, is_out_of_memory
from captioner.training.objectives import Objective
from captioner.training.optim import set_learning_rate
from captioner.training.recording import Recorder
from captioner.types import Batch


@dataclass
class Phase:
    """Teach by one objective, from where `progress` stands to the phase's last epoch, or until it is enough."""

    config: PhaseConfig
    settings: TrainingConfig
    objective: Objective
    optimizer: torch.optim.Optimizer
    sampler: EpochSampler
    train_loader: Loader
    dev_loader: Loader
    average: MovingAverage
    progress: Progress
    recorder: Recorder
    ranks: Ranks
    interrupts: Interrupts
    _retreat: Retreat | None = field(default=None, init=False)  # from the step that is being taken, if it can be

    @property
    def is_last(self) -> bool:
        """Whether the run ends with it."""
        return self.progress.phase == len(self.settings.phases) - 1 or self._reached_max_steps

    @property
    def _reached_max_steps(self) -> bool:
        return self.settings.max_steps is not None and self.progress.step >= self.settings.max_steps

    def _enough(self) -> bool:
        patience = self.settings.early_stopping
        return self._reached_max_steps or (patience is not None and self.progress.worse >= patience)

    def run(self) -> None:
        """Take every step that is left, and leave a checkpoint of the last one behind. Raises Interrupted."""
        objective = self.ranks.wrap(self.objective)
        objective.train()
        with self.interrupts:
            while self.progress.epoch < self.config.epochs and not self._enough():
                self._run_epoch(objective)
            if self.is_last and self.progress.validated != self.progress.step:
                self._validate()
            if not self.is_last and self.ranks.any(self.interrupts.wanted):
                self._stop()
            self.recorder.checkpoint(self.optimizer)

    def _run_epoch(self, objective: torch.nn.Module) -> None:
        before = sum(phase.epochs for phase in self.settings.phases[: self.progress.phase])
        self.sampler.epoch = before + self.progress.epoch
        with self.recorder.epoch(self.config.epochs, self.sampler.batches):
            while retreat := self._take_steps(objective):
                retreat.take()
                self.progress.parts *= 2
                console.print(f"out of memory: batches are worked through in {self.progress.parts} parts from here on")
        if self.progress.batch == self.sampler.batches:
            if self.settings.validate_every is None:
                self._validate()
            self.progress.epoch, self.progress.batch = self.progress.epoch + 1, 0
            if self.settings.validate_every is None and self.settings.checkpoint_every is None:
                self.recorder.checkpoint(self.optimizer)

    def _take_steps(self, objective: torch.nn.Module) -> Retreat | None:
        """Take the steps that are left of the epoch; give the way back from one that needs smaller parts."""
        parts = self.settings.accumulate
        self.sampler.first = self.progress.batch
        self.sampler.parts = self.progress.parts if parts == "auto" else parts
        self._write_down()  # what an interrupted run had no time for
        try:
            fit(
                objective,
                self.optimizer,
                self._counted(in_groups(self.train_loader, self.sampler.parts)),
                count=self.objective.count,
                ranks=self.ranks,
                precision=self.settings.precision,
                gradient_clip=self.settings.gradient_clip,
                before_step=self._before_step,
                after_step=self._after_step,
            )
        except (MemoryError, RuntimeError) as error:
            smaller = 2 * self.sampler.parts <= self.sampler.examples // self.sampler.batches
            if not (smaller and self._retreat and is_out_of_memory(error)):
                raise
        return self._retreat

    def _counted(self, steps: Iterable[list[Batch]]) -> Iterator[list[Batch]]:
        for parts in steps:
            self.captions = sum(len(part.tokens) for part in parts) * self.ranks.count
            yield parts

    def _before_step(self) -> None:
        if self.settings.accumulate == "auto":
            self._retreat = Retreat(self.objective, self.ranks.device)
        batches = self.sampler.batches
        step, steps = self.progress.epoch * batches + self.progress.batch, self.config.epochs * batches
        self.objective.progress = step / steps
        self.learning_rate = set_learning_rate(self.optimizer, step=step, steps=steps, warmup=self.config.warmup)

    def _after_step(self, loss: LossSum) -> bool:
        self._retreat = None  # from a step that was taken there is none
        self.average.update()
        self.progress.step += 1
        self.progress.batch += 1
        self.recorder.step(loss, captions=self.captions, learning_rate=self.learning_rate, **self.objective.noted)
        if self.interrupts.agreed():
            self._stop()
        self._write_down()
        return self._enough()

    def _write_down(self) -> None:
        """Validate and save where it is time to, unless that is done."""
        step, validate, save = self.progress.step, self.settings.validate_every, self.settings.checkpoint_every
        if validate and step % validate == 0 and self.progress.validated != step:
            self._validate()
        if self.progress.validated == step if save is None else step % save == 0:
            self.recorder.checkpoint(self.optimizer)

    def _validate(self) -> None:
        if not self.recorder.validate(self.dev_loader, stop=lambda: self.interrupts.wanted):
            self._stop()

    def _stop(self) -> NoReturn:
        """Save where the run stands, say how to go on, and end the program."""
        self.recorder.checkpoint(self.optimizer)
        console.print(f"stopped after step {self.progress.step}: {way_on(self.recorder.output)}")
        raise self.interrupts.end()
