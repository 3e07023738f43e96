"""The data loaders of each phase: of cached features if the trunk is frozen, or else of images."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from captioner.config.schema import Config, PhaseConfig
from captioner.console import console, track
from captioner.data.batching import (
    BatchSampler,
    CaptionDataset,
    EpochBatchSampler,
    ImageSource,
    LoadSource,
    sequential_batches,
)
from captioner.data.datasets import Example
from captioner.data.features import FeatureSource, cached_features, features_key
from captioner.data.loading import Loader, default_num_workers
from captioner.data.transforms import Transform, build_transform
from captioner.devices import autocast
from captioner.distributed import Ranks
from captioner.models.encoder import ImageEncoder, fold_batch_norms
from captioner.text.tokenizer import Vocabulary, tokenize

# Images at a time when features are computed. The memory that this takes has nothing to do with
# training.batch_size.
_FEATURE_BATCH = 32


class _Split(NamedTuple):
    """The images of a split, and the token ids of their captions."""

    name: str  # in the name of its cache
    examples: Sequence[Example]
    token_ids: list[list[list[int]]]  # of each caption of each example


class LoaderFactory:
    """Makes the data loaders of the phases of a run."""

    def __init__(
        self,
        config: Config,
        encoder: ImageEncoder,
        vocabulary: Vocabulary,
        *,
        train: Sequence[Example],
        dev: Sequence[Example],
        ranks: Ranks,
    ) -> None:
        self.config, self.encoder, self.ranks = config, encoder, ranks
        self.transform = build_transform(config.encoder.transform, config.encoder.image_size)
        self.train = self._encode("train", train, vocabulary)
        dev_name = f"dev-{ranks.rank}-of-{ranks.world_size}"
        self.dev = self._encode(dev_name, ranks.shard(dev), vocabulary)

    def _encode(self, name: str, examples: Sequence[Example], vocabulary: Vocabulary) -> _Split:
        max_length = self.config.data.max_length
        token_ids = [
            [vocabulary.encode(tokenize(caption), max_length) for caption in example.captions]
            for example in examples
        ]
        return _Split(name, examples, token_ids)

    def train_loader(self, phase: PhaseConfig, sampler: EpochBatchSampler) -> Loader:
        """Return the loader of the train split, with the augmentation of the phase."""
        name = phase.augmentation or self.config.encoder.transform
        transform = build_transform(name, self.config.encoder.image_size)
        return self._phase_loader(phase, self.train, transform, sampler)

    def dev_loader(self, phase: PhaseConfig) -> Loader:
        """Return the loader of this rank's share of dev: in order, without augmentation."""
        batches = sequential_batches(len(self.dev.examples), self.config.training.batch_size)
        return self._phase_loader(phase, self.dev, self.transform, batches)

    def _phase_loader(
        self, phase: PhaseConfig, split: _Split, transform: Transform, batches: BatchSampler
    ) -> Loader:
        same_each_epoch = phase.finetune_from is None and phase.augmentation is None
        if same_each_epoch and self.config.training.cache_features:
            return self._loader(split, self._features(split), batches, workers=0)
        return self._image_loader(split, transform, batches)

    def _image_loader(self, split: _Split, transform: Transform, batches: BatchSampler) -> Loader:
        source, workers = ImageSource(split.examples, transform), self.config.training.workers
        if workers is None:
            workers = default_num_workers()
        return self._loader(split, source, batches, workers=workers)

    def _loader(
        self, split: _Split, source: LoadSource, batches: BatchSampler, *, workers: int
    ) -> Loader:
        data, training = self.config.data, self.config.training
        return Loader(
            CaptionDataset(source, split.token_ids, data.captions_per_image, training.seed),
            batches,
            workers=workers,
            timeout=training.worker_timeout,
            file_name=lambda index: str(split.examples[index].path),
            pin_memory=self.ranks.device.type == "cuda",
        )

    def _features(self, split: _Split) -> FeatureSource:
        """Return the cached features of a split, computed now if there are none.

        The first rank computes those of a split that all ranks share.
        """
        # Only attention reads the grid.
        kind = "grid" if self.config.decoder.context == "attention" else "summary"
        key = f"{split.name}-{kind}-{features_key(self._encoder_hash(), split.examples)}"
        with self.ranks.first_rank_first():
            return cached_features(
                self.config.output.parent / "features",
                key,
                split.examples,
                lambda: self._compute_features(split, keep_grid=kind == "grid"),
            )

    @torch.inference_mode()
    def _compute_features(self, split: _Split, *, keep_grid: bool) -> Iterator[Tensor]:
        """Yield the features of each batch: the grid (B, P, C), or its mean (B, 1, C)."""
        encoder, images = fold_batch_norms(self.encoder), len(split.examples)
        console.print(f"computing the features of {split.name}, once: {images} images")
        batches = sequential_batches(images, _FEATURE_BATCH)
        loader = self._image_loader(split, self.transform, batches)
        doing = f"features of {split.name}"
        for batch in track(loader, total=len(batches), doing=doing, unit="batches"):
            with autocast(self.ranks.device, self.config.training.precision):
                grid = encoder.features(batch.source.to(self.ranks.device))
            yield grid if keep_grid else grid.mean(dim=1, keepdim=True)

    def _encoder_hash(self) -> str:
        """Return a hash of the transform and the trunk's weights."""
        digest = hashlib.sha256(repr((self.encoder.name, self.transform)).encode())
        for name, tensor in self.encoder.trunk.state_dict().items():
            digest.update(name.encode() + tensor.cpu().numpy().tobytes())
        return digest.hexdigest()
