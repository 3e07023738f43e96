"""Cached features of images: files that the runs in a folder share."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import random
import shutil
from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from captioner.data.datasets import Example
from captioner.errors import CaptionerError
from captioner.storage import check_space, free_space

_HOST = f".{platform.node()}-"  # in the names of unfinished folders


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

    @property
    def num_images(self) -> int:
        """The number of images."""
        return len(self.features)

    def __call__(self, index: int, rng: random.Random) -> Tensor:
        """Return the features (P, C) of one image."""
        return torch.from_numpy(np.array(self.features[index]))


@dataclass(frozen=True)
class FeatureViews:
    """The features of several views of the same images, of which each visit draws one."""

    views: Sequence[FeatureSource]

    @property
    def num_images(self) -> int:
        """The number of images."""
        return self.views[0].num_images

    def __call__(self, index: int, rng: random.Random) -> Tensor:
        """Return the features (P, C) of one image, in a random view."""
        return rng.choice(self.views)(index, rng)


@dataclass(frozen=True)
class JoinedFeatures:
    """The features of several sources, one after the other."""

    sources: Sequence[FeatureSource | FeatureViews]

    @cached_property
    def _first(self) -> list[int]:
        """The index of the first image of each source."""
        return list(accumulate((each.num_images for each in self.sources), initial=0))[:-1]

    def __call__(self, index: int, rng: random.Random) -> Tensor:
        """Return the features (P, C) of one image."""
        source = bisect_right(self._first, index) - 1
        return self.sources[source](index - self._first[source], rng)


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
