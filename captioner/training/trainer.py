"""A training run: its phases, one after the other."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

import torch

from captioner.config.schema import Config, PhaseConfig, TrainingConfig
from captioner.console import console
from captioner.data.batching import EpochSampler
from captioner.data.datasets import Example
from captioner.data.loading import Loader
from captioner.distributed import Ranks
from captioner.errors import UsageError
from captioner.models.encoder_decoder import EncoderDecoder
from captioner.text.vocabulary import Vocabulary
from captioner.training.build import build_objective
from captioner.training.checkpoint import (
    Progress,
    load_checkpoint,
    restore_random_state,
    resume_hint,
)
from captioner.training.ema import EMA
from captioner.training.failures import images_named
from captioner.training.loaders import LoaderFactory
from captioner.training.loop import StepRollback, fit, in_groups, is_out_of_memory
from captioner.training.losses import LossSum
from captioner.training.objectives import Objective
from captioner.training.optim import make_optimizer, restore_optimizer, set_learning_rate
from captioner.training.recorder import Recorder
from captioner.training.signals import SignalHandler
from captioner.training.validation import Search, Validator
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
    average: EMA
    progress: Progress
    recorder: Recorder
    ranks: Ranks
    signals: SignalHandler
    _rollback: StepRollback | None = field(
        default=None, init=False
    )  # from the step that is being taken, if it can be

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
        with self.signals:
            while self.progress.epoch < self.config.epochs and not self._enough():
                self._run_epoch(objective)
            if self.is_last and self.progress.validated != self.progress.step:
                self._validate()
            if not self.is_last and self.ranks.any(self.signals.wanted):
                self._stop()
            self.recorder.checkpoint(self.optimizer)

    def _run_epoch(self, objective: torch.nn.Module) -> None:
        before = sum(phase.epochs for phase in self.settings.phases[: self.progress.phase])
        self.sampler.epoch = before + self.progress.epoch
        with self.recorder.epoch(self.config.epochs, self.sampler.batches):
            while rollback := self._take_steps(objective):
                rollback.take()
                self.progress.parts *= 2
                console.print(
                    f"out of memory: batches are worked through in {self.progress.parts} parts from here on"
                )
        if self.progress.batch == self.sampler.batches:
            if self.settings.validate_every is None:
                self._validate()
            self.progress.epoch, self.progress.batch = self.progress.epoch + 1, 0
            if self.settings.validate_every is None and self.settings.checkpoint_every is None:
                self.recorder.checkpoint(self.optimizer)

    def _take_steps(self, objective: torch.nn.Module) -> StepRollback | None:
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
            if not (smaller and self._rollback and is_out_of_memory(error)):
                raise
        return self._rollback

    def _counted(self, steps: Iterable[list[Batch]]) -> Iterator[list[Batch]]:
        for parts in steps:
            self.captions = sum(len(part.tokens) for part in parts) * self.ranks.count
            yield parts

    def _before_step(self) -> None:
        if self.settings.accumulate == "auto":
            self._rollback = StepRollback(self.objective, self.ranks.device)
        batches = self.sampler.batches
        step, steps = (
            self.progress.epoch * batches + self.progress.batch,
            self.config.epochs * batches,
        )
        self.objective.progress = step / steps
        self.learning_rate = set_learning_rate(
            self.optimizer, step=step, steps=steps, warmup=self.config.warmup
        )

    def _after_step(self, loss: LossSum) -> bool:
        self._rollback = None  # from a step that was taken there is none
        self.average.update()
        self.progress.step += 1
        self.progress.batch += 1
        self.recorder.step(
            loss, captions=self.captions, learning_rate=self.learning_rate, **self.objective.noted
        )
        if self.signals.agreed():
            self._stop()
        self._write_down()
        return self._enough()

    def _write_down(self) -> None:
        """Validate and save where it is time to, unless that is done."""
        step, validate, save = (
            self.progress.step,
            self.settings.validate_every,
            self.settings.checkpoint_every,
        )
        if validate and step % validate == 0 and self.progress.validated != step:
            self._validate()
        if self.progress.validated == step if save is None else step % save == 0:
            self.recorder.checkpoint(self.optimizer)

    def _validate(self) -> None:
        if not self.recorder.validate(self.dev_loader, stop=lambda: self.signals.wanted):
            self._stop()

    def _stop(self) -> NoReturn:
        """Save where the run stands, say how to go on, and end the program."""
        self.recorder.checkpoint(self.optimizer)
        console.print(
            f"stopped after step {self.progress.step}: {resume_hint(self.recorder.output)}"
        )
        raise self.signals.end()


class Trainer:
    """Teach `model` the captions of `train`, and keep the one that captions `dev` best.

    What it does not know: how captions are searched for (`search`) and how a model folder is written (`write_model`).
    """

    def __init__(
        self,
        config: Config,
        *,
        model: EncoderDecoder,
        vocabulary: Vocabulary,
        train: Sequence[Example],
        dev: Sequence[Example],
        search: Search,
        write_model: Callable[[Path], None],
        ranks: Ranks,
    ) -> None:
        self.config, self.settings, self.ranks = config, config.training, ranks
        self.model, self.vocabulary, self.write_model = (
            model.to(ranks.device),
            vocabulary,
            write_model,
        )
        self.train, self.dev = train, dev
        self.average = EMA(self.model, decay=self.settings.ema)
        self.loaders = LoaderFactory(
            config, model.encoder, vocabulary, train=train, dev=dev, ranks=ranks
        )
        self.validator = Validator(
            model,
            dev,
            search=search,
            vocabulary=vocabulary,
            ranks=ranks,
            precision=self.settings.precision,
        )
        self.signals = SignalHandler(ranks)
        self._check_sizes()

    def _check_sizes(self) -> None:
        parts = self.settings.accumulate
        if parts == "auto" and self.ranks.count > 1:
            raise UsageError(
                "training.accumulate=auto is for one process, which can take a step back: set a number"
            )
        shares = self.ranks.count * (1 if parts == "auto" else parts)
        smallest = len(self.train) // -(-len(self.train) // self.settings.batch_size)
        if smallest < shares:
            raise UsageError(
                f"a batch of {smallest} images cannot be dealt out to {shares} (ranks times training.accumulate): "
                "set a larger training.batch_size"
            )
        if len(self.dev) < self.ranks.count:
            raise UsageError(
                f"{len(self.dev)} images of dev cannot be dealt out to {self.ranks.count} ranks: add some"
            )

    def run(self, checkpoint: Path | None = None) -> None:
        """Train through every phase that is left, from `checkpoint` if one is given. Raises Interrupted by a signal."""
        torch.manual_seed(self.settings.seed + self.ranks.rank)  # ranks drop different hidden units
        progress, optimizer_state = self._resume(checkpoint) if checkpoint else (Progress(), None)
        before = progress.step
        recorder = Recorder(
            self.config.output,
            self.settings,
            progress,
            dev=self.dev,
            validator=self.validator,
            average=self.average,
            write_model=self.write_model,
            ranks=self.ranks,
        )
        finetunes = any(phase.finetune_from for phase in self.settings.phases)
        recorder.check_space((self.model if finetunes else self.model.decoder).parameters())
        with closing(recorder), images_named(self.config.output, self.train, self.ranks):
            while True:
                phase = self._phase(progress, recorder, optimizer_state)
                phase.run()
                if phase.is_last:
                    break
                optimizer_state = None
                self.average.apply()  # what was validated is what the next phase starts from
                progress.next_phase()
        if progress.step == before:
            console.print("nothing was left to do")

    def _resume(self, checkpoint: Path) -> tuple[Progress, dict[str, object]]:
        progress, optimizer_state, average, random_states = load_checkpoint(checkpoint)
        if progress.phase >= len(self.settings.phases):
            raise UsageError(
                f"{checkpoint} is of phase {progress.phase + 1}, which training.phases does not hold"
            )
        self.average.load_state_dict(average)
        if len(random_states) == self.ranks.count:
            restore_random_state(random_states[self.ranks.rank], self.ranks.device)
        console.print(f"going on from {checkpoint} (step {progress.step})")
        return progress, optimizer_state

    def _phase(
        self, progress: Progress, recorder: Recorder, optimizer_state: dict[str, object] | None
    ) -> Phase:
        config = self.settings.phases[progress.phase]
        self.model.encoder.finetune(config.finetune_from)
        optimizer = make_optimizer(self.model, config, weight_decay=self.settings.weight_decay)
        if optimizer_state is not None:
            restore_optimizer(optimizer, optimizer_state)
        objective = build_objective(
            config,
            self.settings,
            self.model,
            self.vocabulary,
            self.train,
            max_length=self.config.decoding.max_length,
        )
        sampler = EpochSampler(
            len(self.train),
            self.settings.batch_size,
            self.settings.seed,
            rank=self.ranks.rank,
            ranks=self.ranks.count,
        )
        return Phase(
            config,
            self.settings,
            objective=objective,
            optimizer=optimizer,
            sampler=sampler,
            train_loader=self.loaders.train_loader(config, sampler),
            dev_loader=self.loaders.dev_loader(config),
            average=self.average,
            progress=progress,
            recorder=recorder,
            ranks=self.ranks,
            signals=self.signals,
        )
