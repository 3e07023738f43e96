"""Read batches ahead of their use: in worker processes for training, in threads for inference."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import cast

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, get_worker_info

from captioner.data.batching import BatchSampler, CaptionDataset, Sample, SampleKey, collate
from captioner.errors import CaptionerError, ImageError
from captioner.types import Batch

_IDLE = -1


def default_num_workers() -> int:
    """Return how many workers read images by default: the number of cores for this process."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Loader:
    """A DataLoader that names the image file if an image cannot be read or a worker fails.

    Args:
        dataset: the images and their captions.
        batch_sampler: the keys of each batch.
        workers: number of worker processes; 0 reads in this process.
        timeout: seconds to wait for a batch from a worker; 0 waits without limit.
        file_name: returns the file name of an example, given its index, for errors.
        pin_memory: as in torch's DataLoader.

    Iterating raises:
        ImageError: an image of the next batch cannot be read.
        CaptionerError: a worker has died or has reached the timeout.
    """

    def __init__(
        self,
        dataset: CaptionDataset,
        batch_sampler: BatchSampler,
        *,
        workers: int,
        timeout: float = 0,
        file_name: Callable[[int], str] = str,
        pin_memory: bool = False,
    ) -> None:
        self._file_name = file_name
        self._current = torch.full((workers, 2), _IDLE)  # process id and index that it is reading
        self._current.share_memory_()  # type: ignore[no-untyped-call]
        self._loader: DataLoader[Batch | ImageError] = DataLoader(
            _TrackedDataset(dataset, self._current),  # type: ignore[arg-type]  # samples, not batches
            batch_sampler=batch_sampler,
            collate_fn=_collate_or_error,
            num_workers=workers,
            persistent_workers=workers > 0,
            pin_memory=pin_memory,
            timeout=timeout if workers else 0,
            worker_init_fn=_start_process_group,
            generator=torch.Generator(),  # the default generator is for dropout only
        )

    def __len__(self) -> int:
        return len(self._loader)

    def __iter__(self) -> Iterator[Batch]:
        try:
            with _keep_sigchld_handler():
                batches = iter(self._loader)
            for batch in batches:
                if isinstance(batch, ImageError):
                    raise batch
                yield batch
        except RuntimeError as error:
            if not str(error).startswith("DataLoader "):
                raise
            raise self._worker_error(timed_out="timed out" in str(error)) from error

    def _worker_error(self, *, timed_out: bool) -> CaptionerError:
        alive = {child.pid for child in multiprocessing.active_children()}
        busy = [(process, index) for process, index in self._current.tolist() if index != _IDLE]
        failed = [index for process, index in busy if timed_out or process not in alive]
        files = f" while reading {', '.join(map(self._file_name, failed))}" if failed else ""
        return CaptionerError(
            f"a worker process {'timed out' if timed_out else 'died'}{files}: check the file and "
            "its disk, lower training.workers if memory is short, or raise "
            "training.worker_timeout if the disk is slow"
        )


class _TrackedDataset(Dataset[Sample | ImageError]):
    """A data set that records in shared memory which example each worker is reading."""

    def __init__(self, dataset: CaptionDataset, current: Tensor) -> None:
        self.dataset, self.current = dataset, current

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, key: SampleKey) -> Sample | ImageError:
        worker = get_worker_info()
        if worker is None:
            return self.dataset[key]
        current = self.current.numpy()  # the same memory; writing through numpy is much faster
        current[worker.id] = os.getpid(), key[1]
        sample = self.dataset[key]
        current[worker.id, 1] = _IDLE
        return sample


def _start_process_group(worker: int) -> None:
    """Protect a worker from Ctrl-C: the main process needs it until the end of the step."""
    if hasattr(os, "setpgid"):
        os.setpgid(0, 0)


@contextmanager
def _keep_sigchld_handler() -> Iterator[None]:
    """Undo the signal handler that torch installs when its workers start.

    It raises an error at any point of the program, even while a checkpoint is saved. Without it,
    the death of a worker is an error only when a batch is requested.
    """
    if not hasattr(signal, "SIGCHLD") or threading.current_thread() is not threading.main_thread():
        yield
        return
    handler = signal.getsignal(signal.SIGCHLD)
    yield
    signal.signal(signal.SIGCHLD, handler)


def _collate_or_error(samples: Sequence[Sample | ImageError]) -> Batch | ImageError:
    """Return the batch, or the first error as a value: torch turns a raised one into plain text."""
    errors = [sample for sample in samples if isinstance(sample, ImageError)]
    return errors[0] if errors else collate(cast(Sequence[Sample], samples))
