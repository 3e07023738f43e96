"""From examples to padded batches, read in worker processes ahead of their use."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from typing import cast

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader, Dataset, Sampler, get_worker_info

from captioner.config.run import CaptionCount
from captioner.data.datasets import Example
from captioner.data.images import read_image
from captioner.data.transforms import Transform
from captioner.errors import CaptionerError, ImageError
from captioner.text.tokenizer import PAD
from captioner.types import Batch

_IDLE = -1
POOL = 50  # batches among which rows are sorted by length

LoadSource = Callable[[int, random.Random], Tensor]
"""(index of an example, random number generator) → its image, its cached features, or the token ids
of its text."""

SampleKey = tuple[int, int]
"""(epoch, row of the epoch). Workers live longer than an epoch, so each key carries its epoch."""

Sample = tuple[Tensor, list[list[int]], int]
"""(source, token ids of its captions with <bos> and <eos>, index of the example in its split)."""


@dataclass(frozen=True)
class ImageSource:
    """Reads and transforms the images of a split from their files."""

    examples: Sequence[Example]
    transform: Transform

    def __call__(self, index: int, rng: random.Random) -> Tensor:
        """Return the image (3, size, size) as uint8."""
        return torch.from_numpy(self.transform(read_image(self.examples[index].path), rng))


def _index_is_row(epoch: int, row: int) -> int:
    return row


@dataclass(frozen=True)
class TextSource:
    """The token ids of source texts."""

    token_ids: Sequence[list[int]]

    def __call__(self, index: int, rng: random.Random) -> Tensor:
        """Return the token ids (P,) of a text, as int64."""
        return torch.tensor(self.token_ids[index])


@dataclass(frozen=True)
class CaptionDataset(Dataset[Sample | ImageError]):
    """Sources with their captions: all of them, or `captions_per_image` drawn anew in each epoch.

    Each sample has its own random number generator, seeded with (seed, epoch, row). The samples
    are therefore the same for any number of workers and in a resumed run.
    """

    load: LoadSource
    captions: Sequence[Sequence[list[int]]]
    captions_per_image: CaptionCount | Sequence[CaptionCount]  # of all examples, or of each
    seed: int
    example_index: Callable[[int, int], int] = _index_is_row  # (epoch, row) -> index

    def __len__(self) -> int:
        return len(self.captions)

    def __getitem__(self, key: SampleKey) -> Sample | ImageError:
        """Return an image with its captions, or the error if the image cannot be read."""
        epoch, row = key
        index = self.example_index(epoch, row)
        rng = random.Random(f"{self.seed} {epoch} {row}")
        captions, limit = self.captions[index], self.captions_per_image
        if not isinstance(limit, int | str):
            limit = limit[index]
        if limit != "all" and len(captions) > limit:
            captions = rng.sample(captions, limit)
        try:
            return self.load(index, rng), list(captions), index
        except ImageError as error:
            return error


def collate(samples: Sequence[Sample]) -> Batch:
    """Stack the sources, which are padded if they are texts, and pad all captions to one length.

    Captions are sorted by length, longest first, regardless of their image: neighbours then have
    nearly the same length, and the decoder processes little padding.
    """
    pairs = [(caption, row) for row, (_, captions, _) in enumerate(samples) for caption in captions]
    pairs.sort(key=lambda pair: len(pair[0]), reverse=True)
    captions, source_index = zip(*pairs, strict=True)
    tokens, mask = pad(captions)  # (N, T), (N, T)
    sources, _, example_index = zip(*samples, strict=True)
    is_text = sources[0].dim() == 1
    source = pad_sequence([*sources], batch_first=True, padding_value=PAD) if is_text else None
    return Batch(
        torch.stack(sources) if source is None else source,
        tokens,
        mask,
        torch.tensor(source_index),
        torch.tensor(example_index),
    )


def pad(captions: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    """Return tokens (N, T), padded with <pad> to the longest caption, and the mask (N, T).

    The mask is True on every token but <pad>.
    """
    lengths = torch.tensor([len(caption) for caption in captions])  # (N,)
    tokens = torch.full((len(captions), int(lengths.max())), PAD)  # (N, T)
    mask = torch.arange(tokens.shape[1]) < lengths.unsqueeze(1)  # (N, T)
    tokens[mask] = torch.tensor([token for caption in captions for token in caption])
    return tokens, mask


def split_evenly(count: int, parts: int) -> list[slice]:
    """Return `parts` consecutive slices of `count` items, with lengths that differ by at most 1."""
    edges = [count * part // parts for part in range(parts + 1)]
    return [slice(start, stop) for start, stop in pairwise(edges)]


@dataclass
class EpochBatchSampler(Sampler[list[SampleKey]]):
    """Batch sampler that yields each row of an epoch once, in an order set by seed and epoch.

    The batches of an epoch differ in size by at most one example: there is no small last batch.
    Each batch is divided among `num_ranks` ranks, and each rank's share into `micro_batches`.
    Which examples are in a batch depends on neither, so every rank takes the same number of steps.
    With `lengths`, the length of each row, a batch holds rows of similar length, which need little
    padding: rows are shuffled, sorted by length within every `POOL` batches, and divided into
    batches, which are shuffled. Set `epoch` and `first_batch` (the one to start from) before you
    iterate.
    """

    num_rows: int
    batch_size: int
    seed: int
    rank: int = 0
    num_ranks: int = 1
    micro_batches: int = 1
    lengths: Sequence[int] | None = None
    epoch: int = field(default=0, init=False)
    first_batch: int = field(default=0, init=False)

    @property
    def num_batches(self) -> int:
        """Return the number of batches in an epoch."""
        return -(-self.num_rows // self.batch_size)

    def __len__(self) -> int:
        return (self.num_batches - self.first_batch) * self.micro_batches

    def __iter__(self) -> Iterator[list[SampleKey]]:
        order = list(range(self.num_rows))
        rng = random.Random(f"{self.seed} {self.epoch}")
        rng.shuffle(order)
        batches = split_evenly(len(order), self.num_batches)
        if self.lengths is not None:
            pool = POOL * self.batch_size
            pools = (order[start : start + pool] for start in range(0, len(order), pool))
            order = [row for rows in pools for row in sorted(rows, key=self.lengths.__getitem__)]
            rng.shuffle(batches)
        for batch in batches[self.first_batch :]:
            indices = order[batch]
            shares = split_evenly(len(indices), self.num_ranks * self.micro_batches)
            for share in shares[self.rank * self.micro_batches :][: self.micro_batches]:
                yield [(self.epoch, index) for index in indices[share]]


BatchSampler = EpochBatchSampler | list[list[SampleKey]]
"""The keys of each batch, as the `batch_sampler` of a DataLoader."""


def sequential_batches(count: int, batch_size: int) -> list[list[SampleKey]]:
    """Return the batches of one pass in order, for validation and for the feature cache."""
    return [
        [(0, index) for index in range(start, min(start + batch_size, count))]
        for start in range(0, count, batch_size)
    ]


def default_num_workers() -> int:
    """Return how many workers read images by default: the number of cores for this process.

    The processes that torchrun starts on this machine share its cores.
    """
    has_affinity = hasattr(os, "sched_getaffinity")
    cores = len(os.sched_getaffinity(0)) if has_affinity else os.cpu_count() or 1
    return max(1, cores // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


class Loader:
    """A DataLoader that names the image file if an image cannot be read or a worker fails.

    Args:
        dataset: the images and their captions.
        batch_sampler: the keys of each batch.
        workers: number of worker processes; 0 reads in this process; None: one for each core, of
            which the ranks of a machine have equal shares.
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
        workers: int | None,
        timeout: float = 0,
        file_name: Callable[[int], str] = str,
        pin_memory: bool = False,
    ) -> None:
        if workers is None:
            workers = default_num_workers()
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
            # a fork shares the memory of the dataset; by default Python 3.14 starts interpreters,
            # which takes seconds, and copies the dataset to each
            multiprocessing_context="fork" if workers and sys.platform == "linux" else None,
            worker_init_fn=_protect_from_ctrl_c,
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
        except (ConnectionError, EOFError, FileNotFoundError) as error:
            # The worker died after it announced a batch, and before this process received it.
            raise self._worker_error(timed_out=False) from error
        except RuntimeError as error:
            if not str(error).startswith("DataLoader "):
                raise
            raise self._worker_error(timed_out="timed out" in str(error)) from error

    def _worker_error(self, *, timed_out: bool) -> CaptionerError:
        alive = {child.pid for child in multiprocessing.active_children()}
        failed = [
            index
            for process, index in self._current.tolist()
            if index != _IDLE and (timed_out or process not in alive)
        ]
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

    def __getitem__(self, key: SampleKey) -> Sample | ImageError:
        worker = get_worker_info()
        if worker is None:
            return self.dataset[key]
        current = self.current.numpy()  # the same memory; writing through numpy is much faster
        current[worker.id] = os.getpid(), self.dataset.example_index(*key)
        sample = self.dataset[key]
        current[worker.id, 1] = _IDLE
        return sample


def _protect_from_ctrl_c(worker: int) -> None:
    """Start a process group: Ctrl-C must not end a worker before the main process ends its step."""
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
