"""What each phase of training reads: cached features where the trunk is frozen, else images from their files."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from captioner.config.schema import Config, PhaseConfig
from captioner.console import console, track
from captioner.data.batching import (
    Batches,
    CaptionDataset,
    EpochSampler,
    ImageSource,
    Load,
    in_order,
)
from captioner.data.datasets import Example
from captioner.data.features import FeatureSource, cached_features, features_key
from captioner.data.loading import Loader, image_workers
from captioner.data.transforms import build_transform
from captioner.devices import autocast
from captioner.distributed import Ranks
from captioner.models.encoder import ImageEncoder, fold_batch_norms
from captioner.text.tokenizer import tokenize
from captioner.text.vocabulary import Vocabulary

_FEATURE_BATCH = 32  # images at a time when features are computed; training's batch size is no guide to memory here


class LoaderFactory:
    """Make the loaders of a run's phases."""

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
        self.train, self.dev = train, ranks.share(dev)
        self.transform = build_transform(config.encoder.transform, config.encoder.image_size)
        self.train_words = self._number(train, vocabulary)
        self.dev_words = self._number(self.dev, vocabulary)

    def train_loader(self, phase: PhaseConfig, sampler: EpochSampler) -> Loader:
        """Read the training split, augmented as the phase says."""
        if self._is_cached(phase):
            source: Load = self._features(self.train, self.train_words, "train")
            return self._loader(source, self.train, self.train_words, sampler, workers=0)
        name = phase.augmentation or self.config.encoder.transform
        source = ImageSource(self.train, build_transform(name, self.config.encoder.image_size))
        return self._loader(source, self.train, self.train_words, sampler, workers=self._workers)

    def dev_loader(self, phase: PhaseConfig) -> Loader:
        """Read this rank's share of the dev split in order, never augmented."""
        batches = in_order(len(self.dev), self.config.training.batch_size)
        if self._is_cached(phase):
            source: Load = self._features(
                self.dev, self.dev_words, f"dev-{self.ranks.rank}-of-{self.ranks.count}"
            )
            return self._loader(source, self.dev, self.dev_words, batches, workers=0)
        source = ImageSource(self.dev, self.transform)
        return self._loader(source, self.dev, self.dev_words, batches, workers=self._workers)

    def _is_cached(self, phase: PhaseConfig) -> bool:
        same_each_epoch = phase.finetune_from is None and phase.augmentation is None
        return same_each_epoch and self.config.training.cache_features

    @property
    def _workers(self) -> int:
        asked = self.config.training.workers
        return image_workers() if asked is None else asked

    def _number(self, examples: Sequence[Example], vocabulary: Vocabulary) -> list[list[list[int]]]:
        longest = self.config.data.max_length
        return [
            [vocabulary.encode(tokenize(caption), longest) for caption in example.captions]
            for example in examples
        ]

    def _loader(
        self,
        source: Load,
        examples: Sequence[Example],
        words: list[list[list[int]]],
        batches: Batches,
        *,
        workers: int,
    ) -> Loader:
        return Loader(
            CaptionDataset(
                source, words, self.config.data.captions_per_image, self.config.training.seed
            ),
            batches,
            workers=workers,
            timeout=self.config.training.worker_timeout,
            name=lambda index: str(examples[index].path),
            pin_memory=self.ranks.device.type == "cuda",
        )

    def _features(
        self, examples: Sequence[Example], words: list[list[list[int]]], split: str
    ) -> FeatureSource:
        """Open the cache of a split, or fill it; a split that all ranks share is filled by the first."""
        whole_grid = (
            self.config.decoder.context == "attention"
        )  # the other contexts read the summary alone
        key = f"{split}-{'grid' if whole_grid else 'summary'}-{features_key(self._encoder_hash(), examples)}"
        batches = in_order(len(examples), _FEATURE_BATCH)

        @torch.inference_mode()
        def compute() -> Iterator[Tensor]:
            seer = fold_batch_norms(self.encoder)
            console.print(f"computing the features of {split}, once: {len(examples)} images")
            source = ImageSource(examples, self.transform)
            loader = self._loader(source, examples, words, batches, workers=self._workers)
            for batch in track(
                loader, total=len(batches), doing=f"features of {split}", unit="batches"
            ):
                with autocast(self.ranks.device, self.config.training.precision):
                    grid = seer.features(batch.source.to(self.ranks.device))  # (B, P, C)
                yield grid if whole_grid else grid.mean(dim=1, keepdim=True)

        with self.ranks.first_goes_first():
            return cached_features(self.config.output.parent / "features", key, examples, compute)

    def _encoder_hash(self) -> str:
        digest = hashlib.sha256(repr((self.encoder.name, self.transform)).encode())
        for name, tensor in self.encoder.trunk.state_dict().items():
            digest.update(name.encode() + tensor.cpu().numpy().tobytes())
        return digest.hexdigest()
