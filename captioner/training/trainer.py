"""A training run: its phases, one after the other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path

import torch

from captioner.config.schema import Config
from captioner.console import console
from captioner.data.batching import EpochSampler
from captioner.data.datasets import Example
from captioner.distributed import Ranks
from captioner.errors import UsageError
from captioner.models.encoder_decoder import CaptioningModel
from captioner.text.vocabulary import Vocabulary
from captioner.training.averaging import MovingAverage
from captioner.training.checkpoint import Progress, load_checkpoint, restore_random_state
from captioner.training.failures import images_named
from captioner.training.feeding import Feeder
from captioner.training.interrupts import Interrupts
from captioner.training.optim import make_optimizer, restore_optimizer
from captioner.training.phase import Phase
from captioner.training.recording import Recorder
from captioner.training.teaching import build_objective
from captioner.training.validation import Search, Validator


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
        self.config, self.settings, self.ranks = config, config.training, ranks
        self.model, self.vocabulary, self.write_model = model.to(ranks.device), vocabulary, write_model
        self.train, self.dev = train, dev
        self.average = MovingAverage(self.model, decay=self.settings.ema)
        self.feeder = Feeder(config, model.encoder, vocabulary, train=train, dev=dev, ranks=ranks)
        self.validator = Validator(
            model, dev, search=search, vocabulary=vocabulary, ranks=ranks, precision=self.settings.precision
        )
        self.interrupts = Interrupts(ranks)
        self._check_sizes()

    def _check_sizes(self) -> None:
        parts = self.settings.accumulate
        if parts == "auto" and self.ranks.count > 1:
            raise UsageError("training.accumulate=auto is for one process, which can take a step back: set a number")
        shares = self.ranks.count * (1 if parts == "auto" else parts)
        smallest = len(self.train) // -(-len(self.train) // self.settings.batch_size)
        if smallest < shares:
            raise UsageError(
                f"a batch of {smallest} images cannot be dealt out to {shares} (ranks times training.accumulate): "
                "set a larger training.batch_size"
            )
        if len(self.dev) < self.ranks.count:
            raise UsageError(f"{len(self.dev)} images of dev cannot be dealt out to {self.ranks.count} ranks: add some")

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
            raise UsageError(f"{checkpoint} is of phase {progress.phase + 1}, which training.phases does not hold")
        self.average.load_state_dict(average)
        if len(random_states) == self.ranks.count:
            restore_random_state(random_states[self.ranks.rank], self.ranks.device)
        console.print(f"going on from {checkpoint} (step {progress.step})")
        return progress, optimizer_state

    def _phase(self, progress: Progress, recorder: Recorder, optimizer_state: dict[str, object] | None) -> Phase:
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
            train_loader=self.feeder.train_loader(config, sampler),
            dev_loader=self.feeder.dev_loader(config),
            average=self.average,
            progress=progress,
            recorder=recorder,
            ranks=self.ranks,
            interrupts=self.interrupts,
        )
