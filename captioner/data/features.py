"""Encoder features kept on disk: with a frozen trunk, every epoch after the first skips the CNN."""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from captioner.data.datasets import Example
from captioner.errors import CaptionerError


def features_key(encoder: str, examples: Sequence[Example]) -> str:
    """A hash of what the features depend on: `encoder` (its own hash) and each image's id, size and time of change."""
    digest = hashlib.sha256(encoder.encode())
    for example in examples:
        about = example.path.stat()
        digest.update(f"{example.image_id!r} {about.st_size} {about.st_mtime_ns}\n".encode())
    return digest.hexdigest()[:16]


@dataclass(frozen=True)
class FeatureSource:
    """Features of one split, in the order of its examples: (images, P, C) in half precision, mapped from the file."""

    path: Path

    def __call__(self, index: int, rng: random.Random) -> Tensor:
        """Give the features (P, C) of one image."""
        return torch.from_numpy(np.array(self._array[index]))

    @property
    def _array(self) -> np.ndarray:
        if self.path not in _opened:
            _opened[self.path] = np.load(self.path, mmap_mode="r")
        return _opened[self.path]


_opened: dict[Path, np.ndarray] = {}  # each process maps a file once


def cached_features(
    folder: Path, key: str, examples: Sequence[Example], compute: Callable[[], Iterable[Tensor]]
) -> FeatureSource:
    """Open the features kept under `key`, or compute them, batch after batch (B, P, C), and keep them.

    The file appears under its name only when it is whole.

    Raises:
        CaptionerError: the disk is full or read-only.
    """
    place = folder / key
    if not (place / "features.npy").exists():
        unfinished = folder / f"{key}.{os.getpid()}.tmp"
        try:
            unfinished.mkdir(parents=True, exist_ok=True)
            ids = [example.image_id for example in examples]
            (unfinished / "ids.json").write_text(json.dumps(ids), encoding="utf-8")
            _write(unfinished / "features.npy", len(examples), compute())
            shutil.rmtree(place, ignore_errors=True)
            unfinished.rename(place)
        except OSError as error:
            free = shutil.disk_usage(folder.parent).free // 2**20 if folder.parent.exists() else 0
            raise CaptionerError(
                f"features cannot be kept in {folder} ({error.strerror}; {free} MiB free): "
                "free some space, choose another --output, or set training.cache_features=false"
            ) from None
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)
    return FeatureSource(place / "features.npy")


def _write(path: Path, count: int, batches: Iterable[Tensor]) -> None:
    array, done = None, 0
    for batch in batches:
        if array is None:
            array = np.lib.format.open_memmap(path, mode="w+", dtype=np.float16, shape=(count, *batch.shape[1:]))
        array[done : done + len(batch)] = batch.half().cpu().numpy()
        done += len(batch)
    assert array is not None
    assert done == count
    array.flush()
