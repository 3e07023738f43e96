"""A training run: phases of epochs, with validations and checkpoints between steps."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import torch

from captioner.config import Config, PhaseConfig
from captioner.console import console, progress_bar
from captioner.data.batching import EpochSampler, Loader
from captioner.data.datasets import Example
from captioner.errors import UsageError
from captioner.models.captioning import CaptioningModel
from captioner.storage import new_folder
from captioner.text.vocabulary import Vocabulary
from captioner.training.averaging import MovingAverage
from captioner.training.checkpoint import (
    Progress,
    load_checkpoint,
    random_state,
    restore_random_state,
    save_checkpoint,
)
from captioner.training.distributed import Ranks
from captioner.training.feeding import Feeder
from captioner.training.logging import RunLog, draw_samples
from captioner.training.loop import fit, in_groups
from captioner.training.losses import LossSum
from captioner.training.optim import make_optimizer, set_learning_rate
from captioner.training.teaching import build_objective
from captioner.training.validation import Search, Validator
from captioner.types import Batch

SAMPLES = 12  # photographs in samples.png


class Trainer:
    """Teach `model` the captions of `train`, and keep the one that captions `dev` best.

    What it does not know: how captions are searched for (`search`) and how a model folder is written (`write_model`).
    """

    def __init__(
        self,
        config: Config,
        *,
        model: CaptioningModel,
        vocabulary: Vocabulary,
        train: Sequence[Example],
        dev: Sequence[Example],
        search: Search,
        write_model: Callable[[Path], None],
        ranks: Ranks,
    ) -> None:
        self.settings = config.training
        self.config, self.output = config, config.output
        self.model, self.write_model, self.ranks = model.to(ranks.device), write_model, ranks
        self.average = MovingAverage(self.model, decay=self.settings.ema)
        self.train, self.samples = train, dev[:SAMPLES]
        self.feeder = Feeder(config, model.encoder, vocabulary, train=train, dev=dev, ranks=ranks)
        self.vocabulary = vocabulary
        self.validator = Validator(
            model, dev, search=search, vocabulary=vocabulary, ranks=ranks, precision=self.settings.precision
        )
        self.progress = Progress()
        self.validated = -1  # the last step that was
        self.saved = -1
        self._check_batch_size()

    def _check_batch_size(self) -> None:
        parts = self.ranks.count * self.settings.accumulate
        smallest = len(self.train) // -(-len(self.train) // self.settings.batch_size)
        if smallest < parts:
            raise UsageError(
                f"a batch of {smallest} images cannot be dealt out to {parts} (ranks times training.accumulate): "
                "set a larger training.batch_size"
            )

    def run(self, checkpoint: Path | None = None) -> None:
        """Train through every phase that is left, from `checkpoint` if one is given."""
        torch.manual_seed(self.settings.seed + self.ranks.rank)  # ranks drop different hidden units
        optimizer_state = self._resume(checkpoint) if checkpoint else None
        self.log = RunLog(self.output, size=self.progress.log_size) if self.ranks.is_first else None
        before = self.progress.step
        try:
            while True:
                self._run_phase(self.settings.phases[self.progress.phase], optimizer_state)
                if self._reached_max_steps or self._in_last_phase:
                    break
                optimizer_state = None
                self.average.apply()  # what was validated is what the next phase starts from
                self.progress.phase += 1
                self.progress.epoch = self.progress.batch = self.progress.worse = 0
            if self.progress.step == before:
                console.print("nothing was left to do")
        finally:
            if self.log:
                self.log.close()

    def _resume(self, checkpoint: Path) -> dict[str, object]:
        self.progress, optimizer_state, average, random_states = load_checkpoint(checkpoint)
        self.average.load_state_dict(average)
        if len(random_states) == self.ranks.count:
            restore_random_state(random_states[self.ranks.rank], self.ranks.device)
        self.saved = self.progress.step
        console.print(f"going on from {checkpoint} (step {self.progress.step})")
        return optimizer_state

    def _run_phase(self, phase: PhaseConfig, optimizer_state: dict[str, object] | None) -> None:
        self.phase = phase
        self.model.encoder.finetune(phase.finetune_from)
        self.optimizer = make_optimizer(self.model, phase, weight_decay=self.settings.weight_decay)
        if optimizer_state is not None:
            self.optimizer.load_state_dict(optimizer_state)
        self.objective = build_objective(
            phase,
            self.settings,
            self.model,
            self.vocabulary,
            self.train,
            max_length=self.config.decoding.max_length,
        )
        objective = self.ranks.wrap(self.objective)
        self.sampler = EpochSampler(
            len(self.train),
            self.settings.batch_size,
            self.settings.seed,
            rank=self.ranks.rank,
            ranks=self.ranks.count,
            parts=self.settings.accumulate,
        )
        train_loader = self.feeder.train_loader(phase, self.sampler)
        self.dev_loader = self.feeder.dev_loader(phase)
        objective.train()
        while self.progress.epoch < phase.epochs and not self._enough():
            self._run_epoch(objective, train_loader)

    def _run_epoch(self, objective: torch.nn.Module, loader: Loader) -> None:
        before = sum(phase.epochs for phase in self.settings.phases[: self.progress.phase])
        self.sampler.epoch = before + self.progress.epoch
        self.sampler.first = self.progress.batch
        self.epoch_loss: LossSum | None = None
        self.epoch_captions, self.epoch_start = 0, time.monotonic()
        with progress_bar("batches") as self.bar:
            self.task = self.bar.add_task(
                f"epoch {self._epoch_name}", total=self.sampler.batches, completed=self.progress.batch, note=""
            )
            fit(
                objective,
                self.optimizer,
                self._counted(in_groups(loader, self.settings.accumulate)),
                count=self.objective.count,
                ranks=self.ranks,
                precision=self.settings.precision,
                gradient_clip=self.settings.gradient_clip,
                before_step=self._before_step,
                after_step=self._after_step,
            )
        if self.progress.batch == self.sampler.batches:
            self.progress.epoch, self.progress.batch = self.progress.epoch + 1, 0
            if self.settings.validate_every is None:
                self._validate()
                if self.settings.checkpoint_every is None:
                    self._checkpoint()
        if self._reached_max_steps or self._is_last_epoch:
            self._finish()

    def _finish(self) -> None:
        """Leave a validated model and a checkpoint of the last step behind, wherever the run ends."""
        if self.validated != self.progress.step:
            self._validate()
            self.saved = -1  # a checkpoint of this step does not know of the validation
        if self.saved != self.progress.step:
            self._checkpoint()

    @property
    def _is_last_epoch(self) -> bool:
        return self._in_last_phase and (self.progress.epoch == self.phase.epochs or self._enough())

    @property
    def _in_last_phase(self) -> bool:
        return self.progress.phase == len(self.settings.phases) - 1

    @property
    def _reached_max_steps(self) -> bool:
        return self.settings.max_steps is not None and self.progress.step >= self.settings.max_steps

    def _enough(self) -> bool:
        patience = self.settings.early_stopping
        return self._reached_max_steps or (patience is not None and self.progress.worse >= patience)

    @property
    def _epoch_name(self) -> str:
        of_phases = f" of phase {self.progress.phase + 1}" if len(self.settings.phases) > 1 else ""
        return f"{self.progress.epoch + 1}/{self.phase.epochs}{of_phases}"

    def _counted(self, steps: Iterable[list[Batch]]) -> Iterator[list[Batch]]:
        for parts in steps:
            self.epoch_captions += sum(len(part.tokens) for part in parts) * self.ranks.count
            yield parts

    def _before_step(self) -> None:
        step, steps = self.progress.epoch * self.sampler.batches + self.progress.batch, self._phase_steps
        self.objective.progress = step / steps
        self.learning_rate = set_learning_rate(self.optimizer, step=step, steps=steps, warmup=self.phase.warmup)

    @property
    def _phase_steps(self) -> int:
        return self.phase.epochs * self.sampler.batches

    def _after_step(self, loss: LossSum) -> bool:
        self.average.update()
        self.progress.step += 1
        self.progress.batch += 1
        self.epoch_loss = loss if self.epoch_loss is None else self.epoch_loss + loss
        if self.log:
            self.log.write(self.progress.step, loss=loss.mean, learning_rate=self.learning_rate, **self.objective.noted)
        noted = "".join(f"  {name} {value:.3f}" for name, value in self.objective.noted.items())
        self.bar.update(self.task, completed=self.progress.batch, note=f"loss {loss.mean:.3f}{noted}")
        if self.settings.validate_every and self.progress.step % self.settings.validate_every == 0:
            self._validate()
        every = self.settings.checkpoint_every
        if self.validated == self.progress.step if every is None else self.progress.step % every == 0:
            self._checkpoint()
        return self._enough()

    def _validate(self) -> None:
        speed = self.epoch_captions / (time.monotonic() - self.epoch_start)
        with self.average.applied():
            result = self.validator(self.dev_loader)
        self.validated = self.progress.step
        better = result.scores.figures["CIDEr"] > self.progress.best
        self.progress.best = max(result.scores.figures["CIDEr"], self.progress.best)
        self.progress.worse = 0 if better else self.progress.worse + 1
        if self.log:
            self.log.validation(self.progress.step, result.figures)
            loss = f"loss {self.epoch_loss.mean:.3f}  " if self.epoch_loss else ""
            best = "  (best)" if better else ""
            console.print(f"step {self.progress.step}  {loss}{result}  {speed:.0f} captions/s{best}")
            draw_samples(self.output / "samples.png", self.samples, result.captions)
            if better:
                with new_folder(self.output / "best") as folder, self.average.applied():
                    self.write_model(folder)
        self.epoch_captions, self.epoch_start = 0, time.monotonic()  # a validation is no time of training

    def _checkpoint(self) -> None:
        random_states = self.ranks.gather(random_state(self.ranks.device))
        self.saved = self.progress.step
        if self.log:
            self.progress.log_size = self.log.flush()
            save_checkpoint(
                self.output,
                self.progress,
                write_model=self.write_model,
                optimizer=self.optimizer,
                average=self.average,
                random_states=random_states,
                keep=self.settings.keep_checkpoints,
            )
        self.ranks.wait()
