"""Encoder features kept on disk: with a frozen trunk, every epoch after the first skips the CNN."""

from __future__ import annotations

import hashlib
import json
import os
import platform
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
from captioner.storage import check_space, free_space


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


_MINE = f".{platform.node()}-"

_opened: dict[Path, np.ndarray] = {}  # each process maps a file once


def cached_features(
    folder: Path, key: str, examples: Sequence[Example], compute: Callable[[], Iterable[Tensor]]
) -> FeatureSource:
    """Open the features kept under `key`, or compute them, batch after batch (B, P, C), and keep them.

    The file appears under its name only when it is whole. What killed runs have left unfinished is removed.

    Raises:
        CaptionerError: the disk is full or read-only.
    """
    place = folder / key
    if not (place / "features.npy").exists():
        unfinished = folder / f"{key}{_MINE}{os.getpid()}.tmp"
        try:
            _sweep(folder)
            unfinished.mkdir(parents=True, exist_ok=True)
            ids = [example.image_id for example in examples]
            (unfinished / "ids.json").write_text(json.dumps(ids), encoding="utf-8")
            _write(unfinished / "features.npy", len(examples), compute())
            shutil.rmtree(place, ignore_errors=True)
            unfinished.rename(place)
        except OSError as error:
            raise CaptionerError(
                f"features cannot be kept in {folder} ({error.strerror}; {free_space(folder)} MiB free): "
                "free some space, choose another --output, or set training.cache_features=false"
            ) from None
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)
    return FeatureSource(place / "features.npy")


def _sweep(folder: Path) -> None:
    """Remove what processes of this machine have left unfinished that no longer run."""
    for unfinished in folder.glob(f"*{_MINE}*.tmp"):
        try:
            os.kill(int(unfinished.stem.rpartition("-")[2]), 0)  # asks only whether it is there
        except ProcessLookupError:
            shutil.rmtree(unfinished, ignore_errors=True)
        except OSError:  # another user's
            continue


def _write(path: Path, count: int, batches: Iterable[Tensor]) -> None:
    """Write batch after batch: in a file mapped into memory, a full disk would end the process without a word."""
    done = 0
    with path.open("wb") as file:
        for batch in batches:
            array = batch.half().cpu().numpy()
            if not done:
                whole = {
                    "descr": array.dtype.str,
                    "fortran_order": False,
                    "shape": (count, *array.shape[1:]),
                }
                np.lib.format.write_array_header_1_0(file, whole)
                check_space(
                    path.parent,
                    count * array[0].nbytes,
                    what="features",
                    way_out="set training.cache_features=false",
                )
            file.write(np.ascontiguousarray(array).data)
            done += len(array)
        file.flush()
        os.fsync(file.fileno())
    assert done == count
