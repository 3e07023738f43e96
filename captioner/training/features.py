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

from captioner.console import console
from captioner.data.datasets import Example
from captioner.data.images import hash_image, image_errors
from captioner.errors import CaptionerError
from captioner.locking import Lock
from captioner.storage import check_space, free_space, publish

_VERSION = 2  # of the way in which images are decoded and features computed
_HOST = f".{platform.node()}-"  # in the names of unfinished folders


def features_key(encoder: str, examples: Sequence[Example], contents: Sequence[str]) -> str:
    """Return a hash of everything that the features depend on.

    Args:
        encoder: hash of the encoder, its transform and its precision.
        examples: their image ids are hashed.
        contents: the `content_hash` of the file of each example.
    """
    digest = hashlib.sha256(f"{_VERSION} {encoder}".encode())
    for example, content in zip(examples, contents, strict=True):
        digest.update(f"{example.image_id!r} {content}\n".encode())
    return digest.hexdigest()[:16]


def content_hash(example: Example) -> str:
    """Return a hash of the bytes of an image: neither its time nor its size tell a change.

    Raises:
        ImageError: the file cannot be read.
    """
    with image_errors(example.path):
        return hash_image(example.path)


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

    The folder gets its name when it is complete. Incomplete ones of killed runs are removed. If
    another run is computing the same features, they are waited for.

    Args:
        folder: the folder of all cached features.
        key: name that identifies encoder and examples, from `features_key`.
        examples: the examples of the split.
        compute: returns the features of the examples in batches (B, P, C).

    Raises:
        CaptionerError: the disk is full or read-only.
    """
    complete = folder / key
    if not _is_complete(complete):
        try:
            with Lock(folder / f".{key}.lock", what=str(complete), wait=_print_wait):
                if not _is_complete(complete):  # the other run may have failed
                    _write_folder(complete, examples, compute)
        except OSError as error:
            raise CaptionerError(
                f"features cannot be written to {folder} ({error.strerror}; "
                f"{free_space(folder)} MiB free): free some space, choose another output folder, "
                "or set training.cache_features=false"
            ) from None
    return FeatureSource(np.load(complete / "features.npy", mmap_mode="r"))


def _is_complete(folder: Path) -> bool:
    return (folder / "features.npy").exists()


def _print_wait(holder: str) -> None:
    console.print(f"waiting for {holder}, which computes the same features", markup=False)


def _write_folder(
    complete: Path, examples: Sequence[Example], compute: Callable[[], Iterable[Tensor]]
) -> None:
    unfinished = complete.with_name(f"{complete.name}{_HOST}{os.getpid()}.tmp")
    try:
        _remove_abandoned(complete.parent)
        unfinished.mkdir(parents=True, exist_ok=True)
        ids = [example.image_id for example in examples]
        (unfinished / "ids.json").write_text(json.dumps(ids), encoding="utf-8")
        _write(unfinished / "features.npy", len(examples), compute())
        publish(unfinished, complete)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


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
