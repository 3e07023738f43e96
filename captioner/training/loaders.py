"""The data loaders of each phase: of cached features if the trunk is frozen, or else of images.

With a frozen trunk, every epoch after the first skips the CNN.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import random
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from captioner.config.schema import Config, PhaseConfig
from captioner.console import console, track
from captioner.data.batching import (
    BatchSampler,
    CaptionDataset,
    EpochBatchSampler,
    ImageSource,
    Loader,
    LoadSource,
    sequential_batches,
)
from captioner.data.datasets import Example
from captioner.data.transforms import Transform, build_transform
from captioner.devices import autocast
from captioner.distributed import Ranks
from captioner.errors import CaptionerError
from captioner.models.encoder import ImageEncoder, fold_batch_norms
from captioner.storage import check_space, free_space
from captioner.text.tokenizer import Vocabulary, tokenize

# Images per batch when features are computed; training.batch_size does not change it.
_FEATURE_BATCH = 32
_HOST = f".{platform.node()}-"  # in the names of unfinished folders


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
        self.dev = self._encode(
            f"dev-{ranks.rank}-of-{ranks.world_size}", ranks.shard(dev), vocabulary
        )

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
        source = ImageSource(split.examples, transform)
        return self._loader(split, source, batches, workers=self.config.training.workers)

    def _loader(
        self, split: _Split, source: LoadSource, batches: BatchSampler, *, workers: int | None
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
        name = split.name.partition("-")[0]  # without the rank
        console.print(f"computing the features of {name}, once: {images} images")
        batches = sequential_batches(images, _FEATURE_BATCH)
        loader = self._image_loader(split, self.transform, batches)
        doing = f"features of {name}"
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


def features_key(encoder: str, examples: Sequence[Example]) -> str:
    """Return a hash of everything that the features depend on.

    Args:
        encoder: hash of the encoder and its transform.
        examples: their image ids and the sizes and modification times of the files are hashed.
    """
    digest = hashlib.sha256(encoder.encode())
    for example in examples:
        status = example.path.stat()
        digest.update(f"{example.image_id!r} {status.st_size} {status.st_mtime_ns}\n".encode())
    return digest.hexdigest()[:16]


@dataclass(frozen=True)
class FeatureSource:
    """The features of a split, in the order of its examples."""

    features: np.ndarray  # (images, P, C) float16, memory-mapped

    def __call__(self, index: int, rng: random.Random) -> Tensor:
        """Return the features (P, C) of one image."""
        return torch.from_numpy(np.array(self.features[index]))


def cached_features(
    folder: Path, key: str, examples: Sequence[Example], compute: Callable[[], Iterable[Tensor]]
) -> FeatureSource:
    """Open the features in `folder / key`; if they do not exist, compute and write them first.

    The folder gets its name when it is complete. Incomplete ones of killed runs are removed.

    Args:
        folder: the folder of all cached features.
        key: name that identifies encoder and examples, from `features_key`.
        examples: the examples of the split.
        compute: returns the features of the examples in batches (B, P, C).

    Raises:
        CaptionerError: the disk is full or read-only.
    """
    complete = folder / key
    if not (complete / "features.npy").exists():
        unfinished = folder / f"{key}{_HOST}{os.getpid()}.tmp"
        try:
            _remove_abandoned(folder)
            unfinished.mkdir(parents=True, exist_ok=True)
            ids = [example.image_id for example in examples]
            (unfinished / "ids.json").write_text(json.dumps(ids), encoding="utf-8")
            _write(unfinished / "features.npy", len(examples), compute())
            shutil.rmtree(complete, ignore_errors=True)
            unfinished.rename(complete)
        except OSError as error:
            raise CaptionerError(
                f"features cannot be written to {folder} ({error.strerror}; "
                f"{free_space(folder)} MiB free): free some space, choose another output folder, "
                "or set training.cache_features=false"
            ) from None
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)
    return FeatureSource(np.load(complete / "features.npy", mmap_mode="r"))


def _remove_abandoned(folder: Path) -> None:
    """Remove the unfinished folders of processes of this host that are no longer running."""
    for unfinished in folder.glob(f"*{_HOST}*.tmp"):
        try:
            os.kill(int(unfinished.stem.rpartition("-")[2]), 0)  # signal 0 only tests for existence
        except ProcessLookupError:
            shutil.rmtree(unfinished, ignore_errors=True)
        except OSError:  # the process of another user is running
            continue


def _write(path: Path, count: int, batches: Iterable[Tensor]) -> None:
    """Write batches of features one after the other to an .npy file for `count` images.

    Ordinary writes raise OSError on a full disk, where writes to a memory map kill the process.
    """
    written = 0
    with path.open("wb") as file:
        for batch in batches:
            array = np.ascontiguousarray(batch.half().cpu().numpy())  # (B, P, C)
            if not written:
                header = np.lib.format.header_data_from_array_1_0(array)
                header["shape"] = (count, *array.shape[1:])
                np.lib.format.write_array_header_1_0(file, header)
                check_space(
                    path.parent,
                    count * array[0].nbytes,
                    what="features",
                    hint="set training.cache_features=false",
                )
            file.write(array.data)
            written += len(array)
        file.flush()
        os.fsync(file.fileno())
    assert written == count
