"""Encoder features on disk: with a frozen trunk, every epoch after the first skips the CNN."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import random
import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from captioner.data.datasets import Example
from captioner.errors import CaptionerError
from captioner.storage import check_space, free_space

_HOST = f".{platform.node()}-"


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
    """Features of a split in the order of its examples, (images, P, C) float16, memory-mapped."""

    path: Path

    def __call__(self, index: int, rng: random.Random) -> Tensor:
        """Return the features (P, C) of one image."""
        return torch.from_numpy(np.array(self._features[index]))

    @cached_property
    def _features(self) -> np.ndarray:
        return np.load(self.path, mmap_mode="r")  # type: ignore[no-any-return]

    def __reduce__(self) -> tuple[type[FeatureSource], tuple[Path]]:
        """Pickle the path alone: each worker maps the file itself."""
        return FeatureSource, (self.path,)


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
    return FeatureSource(complete / "features.npy")


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
            array = batch.half().cpu().numpy()  # (B, P, C)
            if not written:
                np.lib.format.write_array_header_1_0(
                    file,
                    {
                        "descr": array.dtype.str,
                        "fortran_order": False,
                        "shape": (count, *array.shape[1:]),
                    },
                )
                check_space(
                    path.parent,
                    count * array[0].nbytes,
                    what="features",
                    hint="set training.cache_features=false",
                )
            file.write(np.ascontiguousarray(array).data)
            written += len(array)
        file.flush()
        os.fsync(file.fileno())
    assert written == count
