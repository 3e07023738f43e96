"""The trainer: the phases of a run, one after the other."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import assert_never, cast

import torch
import yaml

from captioner.config.run import Config
from captioner.config.schema import INFERENCE, TextEncoderConfig
from captioner.config.training import PhaseConfig, TrainingConfig
from captioner.console import console
from captioner.data.plain_text import TextExample
from captioner.data.splits import SourceExample, Splits, describe_splits
from captioner.decoding.memory import check_search_memory
from captioner.decoding.search import Search, build_search, length_limits
from captioner.distributed import Ranks
from captioner.errors import UsageError
from captioner.models.encoder import ImageEncoder
from captioner.models.encoder_decoder import EncoderDecoder
from captioner.models.folder import write_model
from captioner.storage import atomic_file
from captioner.text.tokenizer import Vocabulary
from captioner.training.checkpoint import Progress, load_checkpoint, set_rng_states
from captioner.training.failures import SignalHandler, list_images_if_not_finite
from captioner.training.loaders import ImageLoaders, LoaderFactory, caches_features
from captioner.training.objectives import (
    Objective,
    ScheduledSampling,
    TeacherForcing,
    build_schedule,
)
from captioner.training.optim import EMA, make_optimizer, restore_optimizer
from captioner.training.phase import Phase, StepRollback
from captioner.training.precision import usable_precision
from captioner.training.provenance import adapt_progress, provenance
from captioner.training.recorder import Recorder
from captioner.training.validation import LengthLimits, Validator


class Trainer:
    """Trains a model on the captions of `train`, and keeps the one with the best captions of `dev`.

    Args:
        config: of the run.
        model: with its initial weights, or those of the checkpoint to resume from.
        vocabulary: of the text that the model generates.
        source_vocabulary: of the text that it reads; None: as `vocabulary`.
        splits: what to learn from, and what to validate on.
        ranks: the processes that share the training.

    Raises:
        UsageError: a batch or a source of dev has too few images for the ranks, no phase can use
            the text, `training.select_by` names no source of dev, or a phase no stage of the trunk.
    """

    def __init__(
        self,
        config: Config,
        model: EncoderDecoder,
        vocabulary: Vocabulary,
        splits: Splits,
        *,
        source_vocabulary: Vocabulary | None = None,
        ranks: Ranks,
    ) -> None:
        self.config, self.ranks = config, ranks
        self.model, self.vocabulary = model.to(ranks.device), vocabulary
        precision = usable_precision(model, config, ranks.device)
        self.settings = config.training.model_copy(update={"precision": precision})
        self.source_vocabulary = source_vocabulary or vocabulary
        self.splits, self.dev = splits, splits.dev
        self.average = EMA(self.model, decay=self.settings.ema)
        self.loaders = self._make_loaders(splits)
        self.train = self.loaders.train.mixture
        self._check_text()
        self._check_sizes()
        self.validator = Validator(
            model,
            splits.dev,
            select_by=self.settings.select_by,
            search=_build_search(config, model, vocabulary),
            limits=partial(length_limits, config=config.decoding),
            vocabulary=vocabulary,
            ranks=ranks,
            precision=self.settings.precision,
        )
        self.signals = SignalHandler(ranks)
        samplers = [self.loaders.sampler(phase) for phase in self.settings.phases]
        self.provenance = provenance(
            config,
            self.train.examples,
            (example for source in splits.dev for example in source.examples),
            rows=[sampler.num_rows for sampler in samplers],
            batches=[sampler.num_batches for sampler in samplers],
        )

    def _make_loaders(self, splits: Splits) -> LoaderFactory:
        config = self.config.model_copy(update={"training": self.settings})
        if config.encoder.kind == "text":
            from captioner.training.text_loaders import TextLoaders

            vocabularies = self.vocabulary, self.source_vocabulary
            return TextLoaders(config, *vocabularies, splits, ranks=self.ranks)
        encoder = cast(ImageEncoder, self.model.encoder)
        return ImageLoaders(config, encoder, self.vocabulary, splits, ranks=self.ranks)

    def _check_text(self) -> None:
        """Check that a phase can use the text, and print how many cannot."""
        phases = self.settings.phases
        unable = [phase for phase in phases if not caches_features(phase, self.settings)]
        if not self.train.text or not unable:
            return
        reason = "it has features but no images, which training the trunk and augmenting need"
        if len(unable) == len(phases):
            raise UsageError(
                "no phase can use the text in data.train, which has features but no images: add a "
                "phase without finetune_from and augmentation, with training.cache_features=true"
            )
        numbers = [str(number) for number, phase in enumerate(phases, 1) if phase in unable]
        subject = f"phase {', '.join(numbers)} leave{'s' * (len(unable) == 1)}"
        console.print(f"{subject} the text out: {reason}")

    def _check_sizes(self) -> None:
        accumulate, world_size = self.settings.accumulate, self.ranks.world_size
        if accumulate == "auto" and world_size > 1:
            raise UsageError(
                "training.accumulate=auto works in one process only, which can repeat a step: set "
                "a number"
            )
        micro_batches = world_size * (1 if accumulate == "auto" else accumulate)
        for phase in self.settings.phases:
            sampler = self.loaders.sampler(phase)
            batch = sampler.num_rows // sampler.num_batches
            if batch < micro_batches:
                raise UsageError(
                    f"a batch of {batch} {self._noun} is too small for {micro_batches} "
                    "micro-batches (ranks times training.accumulate): set a larger "
                    "training.batch_size"
                )
            self.model.encoder.finetune(phase.finetune_from)
            if batch // micro_batches == 1 and not self._learns_from_one_example():
                raise UsageError(
                    f"a batch of {batch} in {micro_batches} micro-batches leaves batch norms one "
                    "value of one image, from which they cannot learn: set a larger "
                    "training.batch_size, encoder.image_size, or encoder.batch_norm=eval"
                )
        smallest = min(len(source.examples) for source in self.dev)
        if smallest < world_size:
            raise UsageError(
                f"{smallest} {self._noun} of dev are too few for {world_size} ranks: "
                "use fewer ranks"
            )

    def _learns_from_one_example(self) -> bool:
        """Return whether each batch norm that learns gets more than one value of one image."""
        encoder = self.config.encoder
        if isinstance(encoder, TextEncoderConfig):
            return True
        size = encoder.image_size
        image = torch.zeros((1, 3, size, size), dtype=torch.uint8, device=self.ranks.device)
        rollback = StepRollback(self.model, self.ranks.device)
        try:
            with torch.no_grad():
                self.model.train().encoder(image)
        except ValueError:  # torch refuses to compute the variance of one value
            return False
        finally:
            rollback.restore()
        return True

    def run(self, checkpoint: Path | None = None) -> None:
        """Run all phases, or the rest of the run after `checkpoint`.

        Raises:
            Interrupted: a signal stopped the run, after a checkpoint was saved.
        """
        if self.ranks.is_first:
            self._write_config()
            self._print_summary()
        # Dropout differs between ranks.
        torch.manual_seed(self.settings.seed + self.ranks.rank)
        progress, optimizer_state = self._resume(checkpoint) if checkpoint else (Progress(), None)
        first_step = progress.step
        recorder = self._make_recorder(progress)
        with (
            closing(recorder),
            list_images_if_not_finite(self.config.output, self.train.examples, self.ranks),
        ):
            phase = self._make_phase(progress, recorder, optimizer_state)
            phase.run()
            while not phase.is_last:
                self.average.apply()  # the next phase starts from the weights that were validated
                progress.start_next_phase()
                phase = self._make_phase(progress, recorder)
                phase.run()
        if progress.step == first_step:
            console.print(f"no step was left to take: {phase.end_reason()}", markup=False)

    def write_model(self, folder: Path) -> None:
        """Write the model folder."""
        write_model(
            folder,
            config=self.config.model,
            vocabulary=self.vocabulary,
            source_vocabulary=self.source_vocabulary,
            state=self.model.state_dict(),
        )

    def _resume(self, checkpoint: Path) -> tuple[Progress, dict[str, object]]:
        state = load_checkpoint(checkpoint)
        if state.progress.phase >= len(self.settings.phases):
            raise UsageError(
                f"{checkpoint} is of phase {state.progress.phase + 1}, but training.phases has "
                f"{len(self.settings.phases)}: resume with the phases that the run started with"
            )
        self.average.load_state_dict(state.average)
        if len(state.rng_states) == self.ranks.world_size:
            set_rng_states(state.rng_states[self.ranks.rank], self.ranks.device)
        progress = state.progress
        console.print(f"resuming from {checkpoint} (step {progress.step})")
        for message in adapt_progress(progress, state.provenance, self.provenance):
            console.print(message, markup=False)
        if not (self.config.output / "best").is_dir():
            # the run was resumed into another folder: its best model is yet to be found
            progress.best_score, progress.validated_step = -1.0, 0
        return progress, state.optimizer

    def _make_recorder(self, progress: Progress) -> Recorder:
        recorder = Recorder(
            self.config.output,
            self.settings,
            progress,
            dev=self.dev,
            validator=self.validator,
            average=self.average,
            write_model=self.write_model,
            provenance=self.provenance,
            ranks=self.ranks,
        )
        is_text = self.config.encoder.kind == "text"
        trains_all = is_text or any(phase.finetune_from for phase in self.settings.phases)
        recorder.check_space((self.model if trains_all else self.model.decoder).parameters())
        return recorder

    def _write_config(self) -> None:
        with atomic_file(self.config.output / "config.yaml") as file:
            yaml.safe_dump(self.config.to_json(), file, sort_keys=False)
        with atomic_file(self.config.output / "splits.json") as file:  # for the model card
            described = describe_splits(self.config.data, self.splits)
            file.write(json.dumps(described, indent=1) + "\n")

    @property
    def _noun(self) -> str:
        """What the model reads, for messages."""
        return f"{self.config.encoder.kind}s"

    def _print_summary(self) -> None:
        encoder = self.config.encoder
        captions = sum(len(example.captions) for example in self.train.paired)
        dev = sum(len(source.examples) for source in self.dev)
        texts = sum(len(text.examples) for text in self.train.text)
        text = f"{texts} captions without images ({sum(self.train.text_rows)} an epoch), "
        weights = sum(weight.numel() for weight in self.model.parameters())
        world_size = self.ranks.world_size
        devices = f"{self.ranks.device}" + (f" x {world_size}" if world_size > 1 else "")
        is_text = isinstance(encoder, TextEncoderConfig)
        name = encoder.cell if isinstance(encoder, TextEncoderConfig) else encoder.trunk
        sizes = f"{len(self.source_vocabulary)} and " if is_text else ""
        console.print(
            f"{len(self.train.paired)} {self._noun} with {captions} "
            f"{'targets' if is_text else 'captions'} for training, "
            f"{text if texts else ''}{dev} {self._noun} for dev, "
            f"{sizes}{len(self.vocabulary)} words; "
            f"{name} and {self.config.decoder.cell}, "
            f"{weights / 1e6:.1f} M parameters, on {devices}; into {self.config.output}"
        )

    def _make_phase(
        self,
        progress: Progress,
        recorder: Recorder,
        optimizer_state: dict[str, object] | None = None,
    ) -> Phase:
        config, settings = self.settings.phases[progress.phase], self.settings
        self.model.encoder.finetune(config.finetune_from)
        optimizer = make_optimizer(self.model, config, weight_decay=settings.weight_decay)
        if optimizer_state is not None:
            restore_optimizer(optimizer, optimizer_state)
        sampler = self.loaders.sampler(config)
        return Phase(
            config,
            settings,
            objective=build_objective(
                config,
                settings,
                self.model,
                self.vocabulary,
                self.loaders.mixture(config).examples,
                limits=partial(length_limits, config=self.config.decoding),
            ),
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


def _build_search(config: Config, model: EncoderDecoder, vocabulary: Vocabulary) -> Search:
    """Return the beam search of validations: with `training.validation_beam` beams.

    Raises:
        UsageError: `config.decoding`, which the model folder will store, cannot be used.
    """
    settings = {
        "method": "beam",
        "captions": 1,
        "beam": config.training.validation_beam,
        "replace_unknown": False,  # it needs the words of the source
    }
    validation = config.decoding.model_copy(update=settings)
    batch_sizes = ((config.decoding, INFERENCE.batch_size), (validation, 1))
    try:
        for decoding, batch_size in batch_sizes:
            check_search_memory(
                decoding,
                vocab_size=len(vocabulary),
                batch_size=batch_size,
                device=next(model.parameters()).device,
            )
        return build_search(model.step, validation, vocabulary)
    except UsageError as error:  # without the marks that stand for options
        raise UsageError(f"decoding: {error}") from None


def build_objective(
    phase: PhaseConfig,
    settings: TrainingConfig,
    model: EncoderDecoder,
    vocabulary: Vocabulary,
    train: Sequence[SourceExample | TextExample],
    *,
    limits: LengthLimits,
) -> Objective:
    """Return the objective that a phase names.

    `limits` are the most words that the model generates for self-critical training.
    """
    penalty = settings.attention_penalty
    if penalty is None:
        penalty = 1.0 if isinstance(model.encoder, ImageEncoder) else 0.0
    regularization = {
        "label_smoothing": settings.label_smoothing,
        "word_dropout": settings.word_dropout,
        "attention_penalty": penalty,
    }
    match phase.objective:
        case "teacher_forcing":
            return TeacherForcing(model, **regularization)
        case "scheduled_sampling":
            sampling = phase.scheduled_sampling
            schedule = build_schedule(sampling.schedule, sampling.share)
            return ScheduledSampling(model, schedule, **regularization)
        case "free_running":
            return ScheduledSampling(model, lambda progress: 1.0, **regularization)
        case "self_critical":
            from captioner.training.self_critical import SelfCritical, caption_reward

            options = phase.self_critical
            return SelfCritical(
                model,
                caption_reward(train, vocabulary, options.reward),
                candidates=options.candidates,
                samples=options.samples,
                baseline=options.baseline,
                limits=limits,
            )
        case other:
            assert_never(other)
