"""Training steps of full size whose parts are timed apart: what `benchmarks.gpu` measures.

The steps are those of `captioner.training`: its objectives, its loss, its optimizer, its loader.
Only the timing is here. The weights are random; batch norms have the statistics of the images, so
that activations are as large as those of a trained network.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from statistics import median
from typing import Literal, NamedTuple, get_args

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.synthetic import Setup, end_after_ten_words
from captioner.config.schema import ModelConfig
from captioner.config.training import PhaseConfig, TrainingConfig
from captioner.data.batching import (
    CaptionDataset,
    EpochBatchSampler,
    ImageSource,
    Loader,
    LoadSource,
    default_num_workers,
    split_evenly,
)
from captioner.data.datasets import Example
from captioner.data.transforms import build_transform
from captioner.devices import PrecisionName, autocast
from captioner.distributed import Ranks
from captioner.models.encoder_decoder import EncoderDecoder
from captioner.models.folding import fold_batch_norms
from captioner.training.features import FeatureSource
from captioner.training.loop import accumulate_gradients, group_micro_batches, train_step
from captioner.training.objectives import Objective
from captioner.training.optim import make_optimizer
from captioner.training.self_critical import SelfCritical
from captioner.training.trainer import build_objective
from captioner.types import Batch

StageName = Literal["features", "frozen", "fine-tuned", "self-critical"]
"""`features` is the pass of the frozen trunk over all images, once; `frozen` and `self-critical`
train on what it stored; `fine-tuned` trains the trunk too, from pixels."""

Format = Literal["bf16", "fp16", "tf32", "fp32"]
"""Of matrix products and convolutions. `fp32` is without TF32."""

STAGES: tuple[StageName, ...] = get_args(StageName)
FORMATS: tuple[Format, ...] = get_args(Format)
FEATURE_BATCH = 32  # images at a time when features are computed: see training/loaders.py
READY = 4  # batches that are in memory
LEARNING_RATE = 1e-6  # tiny: the captions keep their lengths


@dataclass(frozen=True)
class AttentionSetup(Setup):
    """The sizes of `Setup`, with additive attention to the grid of the CNN."""

    @property
    def config(self) -> ModelConfig:
        """Return the model's settings."""
        config = super().config
        decoder = config.decoder.model_copy(update={"context": "attention"})
        return config.model_copy(update={"decoder": decoder})


class Timing(NamedTuple):
    """How fast a piece of work is, on the device alone: its batches are in memory."""

    seconds: float  # of a batch
    memory: int | None  # bytes allocated at most, on a GPU
    parts: int  # micro-batches: more than one where a batch does not fit


@contextmanager
def tf32(allowed: bool) -> Iterator[None]:
    """Allow or forbid TF32 in matrix products, convolutions and RNNs within the block."""
    backends = torch.backends.cuda.matmul, torch.backends.cudnn
    former = [backend.allow_tf32 for backend in backends]
    for backend in backends:
        backend.allow_tf32 = allowed
    try:
        yield
    finally:
        for backend, was_allowed in zip(backends, former, strict=True):
            backend.allow_tf32 = was_allowed


def precision_of(name: Format) -> PrecisionName:
    """Return captioner's name of the precision of a format."""
    return "bf16" if name == "bf16" else "fp32"


def computing(
    device: torch.device, name: Format, *, cache: bool = True
) -> AbstractContextManager[object]:
    """Return a context that computes in a format.

    captioner has no fp16: here autocast casts to it, without the loss scaling that training needs.
    It may `cache` the weights that it casts for one backward pass only.
    """
    if name == "fp16":
        return torch.autocast(device.type, torch.float16, cache_enabled=cache)
    return autocast(device, precision_of(name))


def synchronize(device: torch.device) -> None:
    """Wait until a GPU has done all that was started."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds_of(
    work: Callable[[], object], device: torch.device, *, at_least: float = 0.0, calls: int = 2
) -> float:
    """Return the median seconds of a call, after one call to warm up.

    It is called at least `calls` times, and until `at_least` seconds have passed.
    """
    work()
    synchronize(device)
    times: list[float] = []
    while len(times) < calls or sum(times) < at_least:
        start = time.perf_counter()
        work()
        synchronize(device)
        times.append(time.perf_counter() - start)
    return median(times)


def measured_peak(device: torch.device, name: Format, *, size: int) -> float:
    """Return the FLOPs a second of a product of two matrices (size, size) in a format."""
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(name, torch.float32)
    left, right = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    with tf32(name == "tf32"):
        seconds = seconds_of(lambda: left @ right, device, at_least=0.1, calls=10)
    return 2 * size**3 / seconds


def split_batch(batch: Batch, parts: int) -> list[Batch]:
    """Return a batch in micro-batches, as the loader would give it."""
    micro_batches = []
    for share in split_evenly(len(batch.source), parts):
        index = batch.source_index
        rows = ((index >= share.start) & (index < share.stop)).nonzero().squeeze(1)
        tokens, mask = batch.tokens[rows], batch.mask[rows]
        longest = int(mask.sum(dim=1).max())
        micro_batches.append(
            Batch(
                batch.source[share],
                tokens[:, :longest],
                mask[:, :longest],
                index[rows] - share.start,
                batch.example_index[share],
            )
        )
    return micro_batches


def images_to_read(batch_size: int, workers: int | None) -> int:
    """Return how many images show the speed of a loader: two batches for each process."""
    return 2 * batch_size * max(2, default_num_workers() if workers is None else workers)


class Photographs:
    """JPEG files with captions, and the loader that reads them.

    A few files stand for all: after the first read, the disk plays no part.
    """

    def __init__(self, setup: Setup, *, images: int, batch_size: int, workers: int | None) -> None:
        files = setup.write_jpegs()
        self.setup, self.batch_size = setup, batch_size
        self.captions = setup.random_captions(images)
        examples = [Example(n, files[n % len(files)], ()) for n in range(images)]
        transform = build_transform("squash", setup.image_size)
        self.loader = self.make_loader(ImageSource(examples, transform), images, workers)
        self.workers = self.loader._loader.num_workers
        self.ready: list[Batch] = []  # filled by `measure_loader`

    def make_loader(self, load: LoadSource, images: int, workers: int | None) -> Loader:
        """Return a loader of the first `images`."""
        setup = self.setup
        dataset = CaptionDataset(load, self.captions, setup.captions_per_image, setup.seed)
        sampler = EpochBatchSampler(images, self.batch_size, setup.seed)
        pin_memory = setup.device.type == "cuda"
        return Loader(dataset, sampler, workers=workers, timeout=120, pin_memory=pin_memory)

    def measure_loader(self) -> float:
        """Return the images a second of the loader alone, without the start of its processes.

        Each process makes a whole batch, so the first batches come at the same time: they are left
        out. The first batches of all are kept in `ready`.
        """
        warm_up = max(1, min(self.workers, len(self.loader) - 1))
        start, images = 0.0, 0
        for number, batch in enumerate(self.loader):
            if len(self.ready) < READY:
                self.ready.append(batch)
            if number >= warm_up:
                images += len(batch.source)
            if number == warm_up - 1:
                start = time.perf_counter()
        return images / (time.perf_counter() - start)


class Trainee:
    """A model with a trunk, and its training steps in each stage."""

    def __init__(self, setup: Setup, photographs: Photographs, *, finetune_from: str) -> None:
        self.setup, self.photographs = setup, photographs
        self.device, self.finetune_from = setup.device, finetune_from
        self.model = setup.build_model()
        images = photographs.ready[0].source[:64].to(self.device)
        settle_batch_norms(self.model, images)
        self.folded = fold_batch_norms(self.model.encoder)
        with torch.inference_mode():
            summary = self.model.eval().encode(images).summary  # (B, C)
        end_after_ten_words(self.model.decoder, summary)

    @cached_property
    def cached(self) -> list[Batch]:
        """The batches that are ready, with features (B, P, C) float16 as the cache stores them."""
        return [
            batch._replace(source=self._features(batch.source)) for batch in self.photographs.ready
        ]

    @torch.inference_mode()
    def _features(self, images: Tensor) -> Tensor:
        shares = images.split(FEATURE_BATCH)
        features = torch.cat([self.folded.features(each.to(self.device)) for each in shares])
        stored = torch.from_numpy(features.half().cpu().numpy())  # no longer an inference tensor
        return stored.pin_memory() if self.device.type == "cuda" else stored

    @cached_property
    def reward_loss(self) -> Objective:
        """Self-critical training with the reward CIDEr-D against the captions of all images."""
        vocabulary, folder = self.setup.vocabulary, self.setup.folder
        split = [
            Example(number, folder, tuple(" ".join(vocabulary.decode(ids)) for ids in group))
            for number, group in enumerate(self.photographs.captions)
        ]
        return self._objective(PhaseConfig(objective="self_critical"), split)

    def _objective(self, phase: PhaseConfig, split: Sequence[Example] = ()) -> Objective:
        vocabulary, limits = self.setup.vocabulary, self.setup.limits
        return build_objective(
            phase, TrainingConfig(), self.model, vocabulary, split, limits=limits
        )

    def stage(self, name: StageName) -> Stage:
        """Return a stage, ready to take steps."""
        first = self.finetune_from if name == "fine-tuned" else None
        self.model.encoder.finetune(first)
        phase = PhaseConfig(
            finetune_from=first, learning_rate=LEARNING_RATE, trunk_learning_rate=LEARNING_RATE
        )
        objective = self.reward_loss if name == "self-critical" else self._objective(phase)
        reads_images = name in ("features", "fine-tuned")
        batches = self.photographs.ready if reads_images else self.cached
        return Stage(name, self, objective.train(), phase, batches)

    def measure_cached_loader(self) -> float:
        """Return the images a second of the loader of cached features, which has no processes."""
        features = torch.cat([batch.source for batch in self.cached]).numpy()
        source = FeatureSource(np.ascontiguousarray(features))
        loader = self.photographs.make_loader(source, len(features), 0)

        def epoch() -> None:
            for _ in loader:
                pass

        return len(features) / seconds_of(epoch, self.device, calls=1)


@torch.no_grad()
def settle_batch_norms(model: EncoderDecoder, images: Tensor) -> None:
    """Give batch norms the statistics of images, in place of those of no data.

    Without them, each residual block would double the variance: too large for fp16 after 33.
    """
    norms = [each for each in model.encoder.modules() if isinstance(each, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = 1.0
        norm.train()
    model.encoder.features(images)
    for norm in norms:
        norm.momentum = 0.1
        norm.eval()


class Stage:
    """A stage of the training of a model: its whole steps, and their parts."""

    def __init__(
        self,
        stage: StageName,
        trainee: Trainee,
        objective: Objective,
        phase: PhaseConfig,
        batches: Sequence[Batch],
    ) -> None:
        self.stage, self.model, self.objective = stage, trainee.model, objective
        self.folded, self.device = trainee.folded, trainee.device
        self.batches = list(batches)
        self.optimizer = make_optimizer(self.model, phase, weight_decay=1e-4)
        self.ranks = Ranks(0, 1, self.device)
        self.parts = 1
        self._next = 0

    def step(self, name: Format, micro_batches: list[Batch] | None = None) -> None:
        """Take a step with the next batch, or compute its features; or that with a given batch."""
        if micro_batches is None:
            micro_batches = self._micro_batches()
        if self.stage == "features":
            self._encode_once(micro_batches, name)
            return
        with self._fp16(name):  # train_step casts to the other formats itself
            train_step(
                self.objective,
                self.optimizer,
                micro_batches,
                count=self.objective.count,
                ranks=self.ranks,
                precision=precision_of(name),
                gradient_clip=TrainingConfig().gradient_clip,
            )

    def _fp16(self, name: Format) -> AbstractContextManager[object]:
        if name != "fp16":
            return nullcontext()
        return computing(self.device, name, cache=self.parts == 1)

    def _micro_batches(self) -> list[Batch]:
        batch = self.batches[self._next % len(self.batches)]
        self._next += 1
        return split_batch(batch, self.parts) if self.parts > 1 else [batch]

    @torch.inference_mode()
    def _encode_once(self, micro_batches: Sequence[Batch], name: Format) -> None:
        for batch in micro_batches:
            for images in batch.source.split(FEATURE_BATCH):
                with computing(self.device, name):
                    self.folded.features(images.to(self.device, non_blocking=True))

    def measure(self, name: Format, *, seconds: float) -> Timing:
        """Time whole steps. A batch that does not fit is divided into more micro-batches."""
        while True:
            try:
                memory = self._warm_up_memory(name)
                taken = seconds_of(lambda: self.step(name), self.device, at_least=seconds)
            except torch.OutOfMemoryError:
                if self.parts >= 16:
                    raise
            else:
                return Timing(taken, memory, self.parts)
            # after the `except` clause, whose error holds the memory of the step
            self.optimizer.zero_grad(set_to_none=True)
            torch.cuda.empty_cache()
            self.parts *= 2

    def _warm_up_memory(self, name: Format) -> int | None:
        """Return the most bytes that a step allocates; the state of the optimizer included."""
        self.step(name)
        if self.device.type != "cuda":
            return None
        torch.cuda.reset_peak_memory_stats(self.device)
        self.step(name)
        synchronize(self.device)
        return torch.cuda.max_memory_allocated(self.device)

    def flops(self, name: Format) -> float:
        """Return the FLOPs of the products and convolutions of a step, for each image.

        They are counted in a step: forward, backward, and the search of self-critical training.
        """
        counter = FlopCounterMode(display=False)
        micro_batches = self._micro_batches()
        with counter:
            self.step(name, micro_batches)
        return counter.get_total_flops() / sum(len(batch.source) for batch in micro_batches)

    def parts_of_step(self, name: Format) -> dict[str, float]:
        """Return the seconds of each part of a step, each measured by itself and synchronised.

        The decoder reads features that the encoder has computed before. A part has its forward and
        its backward pass. The copy of a batch to the device is in none of them.
        """
        if self.stage == "features":
            batch = [each.to(self.device) for each in self._micro_batches()]
            return {"encoder": self._time(lambda: self._encode_once(batch, name))}
        batch = [each.to(self.device) for each in self._micro_batches()]
        trains = self.stage == "fine-tuned"

        def encode() -> None:
            for each in batch:
                with computing(self.device, name):
                    memory = self.model.encode(each.source)
                if trains:
                    outputs = [memory.grid, memory.summary]
                    torch.autograd.backward(outputs, [torch.ones_like(each) for each in outputs])

        encoder = self._time(encode)
        with torch.no_grad(), computing(self.device, name):
            grids = [self.model.encode(each.source).grid for each in batch]
        encoded = [
            each._replace(source=grid.requires_grad_(trains))
            for each, grid in zip(batch, grids, strict=True)
        ]
        rewards: list[float] = []
        with _timed_reward(self.objective, rewards):
            decoder = self._time(lambda: self._decode(encoded, name))
        weights = [weight for group in self.optimizer.param_groups for weight in group["params"]]

        def update() -> None:
            nn.utils.clip_grad_norm_(weights, TrainingConfig().gradient_clip)
            self.optimizer.step()

        parts = {"encoder": encoder, "decoder": decoder}
        if rewards:
            reward = median(rewards) * self.parts
            parts |= {"decoder": decoder - reward, "reward": reward}
        return {**parts, "optimizer": self._time(update)}

    def _decode(self, batch: list[Batch], name: Format) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        with self._fp16(name):
            accumulate_gradients(
                self.objective,
                batch,
                progress=0.0,
                count=self.objective.count,
                ranks=self.ranks,
                precision=precision_of(name),
            )

    def _time(self, work: Callable[[], object]) -> float:
        return seconds_of(work, self.device)

    def epoch_from_files(self, loader: Loader, name: Format) -> float:
        """Return the images a second of an epoch of real training, with its loader."""
        images, start = 0, time.perf_counter()
        for micro_batches in group_micro_batches(loader, 1):
            self.step(name, micro_batches)
            images += sum(len(batch.source) for batch in micro_batches)
        synchronize(self.device)
        return images / (time.perf_counter() - start)


@contextmanager
def _timed_reward(objective: Objective, seconds: list[float]) -> Iterator[None]:
    """Append the seconds of each call of the reward of self-critical training."""
    if not isinstance(objective, SelfCritical):
        yield
        return
    reward = objective.reward

    def timed(images: Sequence[int], captions: Sequence[Sequence[int]]) -> Tensor:
        start = time.perf_counter()
        result = reward(images, captions)
        seconds.append(time.perf_counter() - start)
        return result

    objective.reward = timed
    try:
        yield
    finally:
        objective.reward = reward
