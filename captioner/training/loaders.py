"""The data loaders of each phase: of cached features if the trunk is frozen, or else of images.

With a frozen trunk, every epoch after the first skips the CNN.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import cast

import torch
from torch import Tensor

from captioner.config.run import Config
from captioner.config.schema import AugmentationName, ImageEncoderConfig
from captioner.config.training import PhaseConfig, TrainingConfig
from captioner.console import console
from captioner.data.batching import (
    BatchSampler,
    CaptionDataset,
    EpochBatchSampler,
    ImageSource,
    Loader,
    LoadSource,
    default_num_workers,
    sequential_batches,
)
from captioner.data.datasets import Example
from captioner.data.splits import ExampleSet, Mixture, SourceExample, Splits
from captioner.data.streaming import map_ahead
from captioner.data.transforms import Transform, build_transform
from captioner.devices import autocast
from captioner.distributed import Ranks
from captioner.models.backbones import TRUNKS
from captioner.models.encoder import ImageEncoder
from captioner.models.folding import fold_batch_norms
from captioner.progress import track
from captioner.text.tokenizer import BOS, EOS, Vocabulary
from captioner.training.features import (
    FeatureSource,
    FeatureViews,
    JoinedFeatures,
    cached_features,
    content_hash,
    features_key,
)
from captioner.training.synthetic import SyntheticFeatures

# Images per batch when features are computed; training.batch_size does not change it.
_FEATURE_BATCH = 32
_CROP: AugmentationName = "mild_crop"  # of `training.cached_crops`


@dataclass(frozen=True)
class Split:
    """The examples of a split, and the token ids of their captions."""

    name: str  # in the names of its caches
    mixture: Mixture
    token_ids: list[list[list[int]]]  # of each caption of each example of the mixture

    @property
    def labels(self) -> list[str]:
        """The name of each source, for messages: "train", or "train (NAME)" if there are more."""
        split, sources = self.name.partition("-")[0], self.mixture.sources  # without the rank
        return [split] if len(sources) == 1 else [f"{split} ({each.name})" for each in sources]


def _images(examples: Iterable[SourceExample]) -> list[Example]:
    """Return the examples, all of which are images."""
    return [cast(Example, example) for example in examples]


def caches_features(phase: PhaseConfig, settings: TrainingConfig) -> bool:
    """Return whether a phase trains on cached features: they are the same in each epoch."""
    same_each_epoch = phase.finetune_from is None and phase.augmentation is None
    return same_each_epoch and settings.cache_features


class LoaderFactory:
    """Makes the data loaders of the phases of a run. This base class needs `_phase_loader`."""

    def __init__(
        self, config: Config, vocabulary: Vocabulary, splits: Splits, *, ranks: Ranks
    ) -> None:
        self.config, self.ranks = config, ranks
        seed = config.training.seed
        self.train = self._encode("train", Mixture(splits.train, splits.text, seed), vocabulary)
        shards = [each._replace(examples=ranks.shard(each.examples)) for each in splits.dev]
        self.dev = self._encode(
            f"dev-{ranks.rank}-of-{ranks.world_size}", Mixture(shards, (), seed), vocabulary
        )

    def _encode(self, name: str, mixture: Mixture, vocabulary: Vocabulary) -> Split:
        max_length, tokenize = self.config.data.max_length, vocabulary.tokenizer.tokenize
        token_ids = [
            [vocabulary.encode(tokenize(caption), max_length) for caption in example.captions]
            for example in mixture.examples
        ]
        return Split(name, mixture, token_ids)

    def mixture(self, phase: PhaseConfig) -> Mixture:
        """Return what an epoch of a phase holds."""
        return self.train.mixture

    def row_lengths(self) -> list[int] | None:
        """Return the length of each row of an epoch, if batches hold rows of similar length."""
        return None

    def sampler(self, phase: PhaseConfig) -> EpochBatchSampler:
        """Return the sampler of this rank for a phase."""
        training = self.config.training
        return EpochBatchSampler(
            self.mixture(phase).num_rows,
            training.batch_size,
            training.seed,
            rank=self.ranks.rank,
            num_ranks=self.ranks.world_size,
            lengths=self.row_lengths(),
        )

    def train_loader(self, phase: PhaseConfig, sampler: EpochBatchSampler) -> Loader:
        """Return the loader of the train split."""
        split = replace(self.train, mixture=self.mixture(phase))
        return self._phase_loader(phase, split, sampler)

    def dev_loader(self, phase: PhaseConfig) -> Loader:
        """Return the loader of this rank's share of dev: in order, without augmentation."""
        batches = sequential_batches(self.dev.mixture.num_rows, self.config.training.batch_size)
        return self._phase_loader(phase, self.dev, batches)

    def _phase_loader(self, phase: PhaseConfig, split: Split, batches: BatchSampler) -> Loader:
        raise NotImplementedError

    def _dataset(self, load: LoadSource, split: Split) -> CaptionDataset:
        mixture, seed = split.mixture, self.config.training.seed
        return CaptionDataset(
            load, split.token_ids, mixture.captions_per_image, seed, mixture.example_index
        )


class ImageLoaders(LoaderFactory):
    """The loaders of images: of cached features if the trunk is frozen, or else of pixels."""

    def __init__(
        self,
        config: Config,
        encoder: ImageEncoder,
        vocabulary: Vocabulary,
        splits: Splits,
        *,
        ranks: Ranks,
    ) -> None:
        super().__init__(config, vocabulary, splits, ranks=ranks)
        self.encoder, self.settings = encoder, cast(ImageEncoderConfig, config.encoder)
        self.transform = build_transform(self.settings.transform, self.settings.image_size)
        self._contents: dict[tuple[str, str], list[str]] = {}  # of each split and source

    def mixture(self, phase: PhaseConfig) -> Mixture:
        """Return what an epoch of a phase holds: text only where features are cached."""
        has_features = caches_features(phase, self.config.training)
        return self.train.mixture if has_features else self.train.mixture.without_text()

    def _phase_loader(self, phase: PhaseConfig, split: Split, batches: BatchSampler) -> Loader:
        """Return a loader; images of the train split have the augmentation of the phase."""
        is_cached = caches_features(phase, self.config.training)
        is_train = split.name == self.train.name
        name = phase.augmentation or self.settings.transform
        transform = build_transform(name, self.settings.image_size) if is_train else self.transform
        images = _images(split.mixture.paired)
        load = self._features(split) if is_cached else ImageSource(images, transform)
        workers = 0 if is_cached else self.config.training.workers
        return self._loader(self._dataset(load, split), images, batches, workers=workers)

    def _loader(
        self,
        data: CaptionDataset,
        images: Sequence[Example],
        batches: BatchSampler,
        *,
        workers: int | None,
    ) -> Loader:
        return Loader(
            data,
            batches,
            workers=workers,
            timeout=self.config.training.worker_timeout,
            file_name=lambda index: str(images[index].path),
            pin_memory=self.ranks.device.type == "cuda",
        )

    def _features(self, split: Split) -> LoadSource:
        """Return the cached features of a split, and made-up ones of its text."""
        sources = [
            self._source_features(split, source, label)
            for source, label in zip(split.mixture.sources, split.labels, strict=True)
        ]
        load = sources[0] if len(sources) == 1 else JoinedFeatures(sources)
        if not split.mixture.text:
            return load
        return SyntheticFeatures(load, split.token_ids, num_images=len(split.mixture.paired))

    def _source_features(
        self, split: Split, source: ExampleSet, label: str
    ) -> FeatureSource | FeatureViews:
        """Return the cached features of a source; of train images, in all their views."""
        whole = self._view(split, source, label, self.transform)
        crops = self.config.training.cached_crops
        if not crops or split.name != self.train.name:
            return whole
        crop = build_transform(_CROP, self.settings.image_size)
        numbers = range(1, crops + 1)
        cropped = [self._view(split, source, label, crop, number=number) for number in numbers]
        return FeatureViews([whole, *cropped])

    def _view(
        self, split: Split, source: ExampleSet, label: str, transform: Transform, *, number: int = 0
    ) -> FeatureSource:
        """Return the cached features of one view of a source, computed now if there are none.

        The first rank computes those of a source that all ranks share. `number` seeds the crops.
        """
        # Only attention reads the grid.
        kind = "grid" if self.config.decoder.context == "attention" else "summary"
        crop = f"crop{number}-" if number else ""
        images = _images(source.examples)
        contents = self._content_hashes(split, source, label)
        digest = features_key(self._encoder_hash(transform), images, contents)
        with self.ranks.first_rank_first():
            return cached_features(
                self.config.output.parent / "features",
                f"{split.name}-{kind}-{crop}{digest}",
                images,
                lambda: self._compute_features(
                    f"{label}, crop {number}" if number else label,
                    ImageSource(images, transform),
                    number,
                    keep_grid=kind == "grid",
                ),
            )

    def _content_hashes(self, split: Split, source: ExampleSet, label: str) -> list[str]:
        """Return the hash of the file of each image of a source, in order; each is read once."""
        key = (split.name, source.name)
        if key not in self._contents:
            images = _images(source.examples)
            is_shared = split.name == self.train.name  # by the ranks, which divide the work
            own = self.ranks.shard(images) if is_shared else images
            hashes = map_ahead(content_hash, own, threads=default_num_workers())
            tracked = track(hashes, total=len(own), doing=f"hashing {label}", unit="images")
            parts = self.ranks.gather([*tracked]) if is_shared else [[*tracked]]
            shares = len(parts)
            self._contents[key] = [parts[i % shares][i // shares] for i in range(len(images))]
        return self._contents[key]

    @torch.inference_mode()
    def _compute_features(
        self, label: str, source: ImageSource, number: int, *, keep_grid: bool
    ) -> Iterator[Tensor]:
        """Yield the features of each batch: the grid (B, P, C), or its mean (B, 1, C)."""
        encoder, images = fold_batch_norms(self.encoder), len(source.examples)
        console.print(f"computing the features of {label}, once: {images} images")
        # The number of the view takes the place of the epoch in the seed of each image's crop.
        batches = [
            [(number, index) for _, index in batch]
            for batch in sequential_batches(images, _FEATURE_BATCH)
        ]
        training, no_captions = self.config.training, [[[BOS, EOS]]] * images
        data = CaptionDataset(source, no_captions, 1, seed=0)  # runs with any seed share the crops
        loader = self._loader(data, source.examples, batches, workers=training.workers)
        doing = f"features of {label}"
        for batch in track(loader, total=len(batches), doing=doing, unit="batches"):
            with autocast(self.ranks.device, training.precision):
                grid = encoder.features(batch.source.to(self.ranks.device))
            yield grid if keep_grid else grid.mean(dim=1, keepdim=True)

    def _encoder_hash(self, transform: Transform) -> str:
        """Return a hash of a transform, the precision and the trunk's weights."""
        with autocast(self.ranks.device, self.config.training.precision):
            is_low = torch.is_autocast_enabled(self.ranks.device.type)
        name, layout = self.encoder.name, self.encoder.layout
        own = TRUNKS.get(name)  # None: of timm, whose pixels depend on its version
        has_own = own is not None and (own.mean, own.std) == (layout.mean, layout.std)
        pixels = () if has_own else (layout.mean, layout.std)
        digest = hashlib.sha256(repr((name, transform, is_low, *pixels)).encode())
        for name, tensor in self.encoder.trunk.state_dict().items():
            digest.update(name.encode() + tensor.cpu().numpy().tobytes())
        return digest.hexdigest()
