"""Batches read ahead of their use in worker processes; one that dies or hangs is told with the file it was reading."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import random
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, get_worker_info

from captioner.data.batching import Batches, CaptionDataset, Item, Key, collate
from captioner.data.images import read_image
from captioner.data.transforms import Transform
from captioner.errors import CaptionerError, ImageError
from captioner.types import Batch

_IDLE = -1


def image_workers() -> int:
    """Return the default number of processes or threads that read images: the cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Loader:
    """Read batches ahead of their use, in worker processes.

    They have `timeout` seconds to come up with one that is waited for (0: for ever); `name` says what an example's file
    is called.

    Iterating raises ImageError, naming the file, when the next batch holds an image that cannot be read (it travels
    home as a value: an exception that a worker raises arrives as the text of a traceback), and CaptionerError when a
    worker has died or gives no answer.
    """

    def __init__(
        self,
        dataset: CaptionDataset,
        batches: Batches,
        *,
        workers: int,
        timeout: float = 0,
        name: Callable[[int], str] = str,
        pin_memory: bool = False,
    ) -> None:
        self._name = name
        self._reading = torch.full(
            (workers, 2), _IDLE
        )  # of each worker: its process, and what it reads
        self._reading.share_memory_()  # type: ignore[no-untyped-call]
        self._loader: DataLoader[Batch | ImageError] = DataLoader(
            _Watched(dataset, self._reading),  # type: ignore[arg-type]  # collate turns items into a Batch
            batch_sampler=batches,
            collate_fn=_collate_or_complain,
            num_workers=workers,
            persistent_workers=workers > 0,
            pin_memory=pin_memory,
            timeout=timeout if workers else 0,
            worker_init_fn=_leave_the_terminal,
            generator=torch.Generator(),  # or the loader would draw from the one that dropout uses
        )

    def __len__(self) -> int:
        return len(self._loader)

    def __iter__(self) -> Iterator[Batch]:
        try:
            with _deaths_noticed_when_waiting():
                batches = iter(self._loader)
            for batch in batches:
                if isinstance(batch, ImageError):
                    raise batch
                yield batch
        except RuntimeError as error:
            if not str(error).startswith("DataLoader "):
                raise
            raise self._explain(hangs="timed out" in str(error)) from error

    def _explain(self, *, hangs: bool) -> CaptionerError:
        alive = {child.pid for child in multiprocessing.active_children()}
        busy = [(process, index) for process, index in self._reading.tolist() if index != _IDLE]
        guilty = [self._name(index) for process, index in busy if hangs or process not in alive]
        files = f" while reading {', '.join(guilty)}" if guilty else ""
        what = "has given no answer" if hangs else "has died"
        return CaptionerError(
            f"a process that reads images {what}{files}: look at the file and its disk, lower training.workers if "
            "memory is short, or raise training.worker_timeout if the disk is slow"
        )


class _Watched(Dataset[Item | ImageError]):
    """A data set that notes where the main process can see it what each worker is reading."""

    def __init__(self, dataset: CaptionDataset, reading: Tensor) -> None:
        self.dataset, self.reading = dataset, reading

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, key: Key) -> Item | ImageError:
        worker = get_worker_info()
        if worker is None:
            return self.dataset[key]
        reading = self.reading.numpy()  # the same memory, written ten times as fast
        reading[worker.id] = os.getpid(), key[1]
        item = self.dataset[key]
        reading[worker.id, 1] = _IDLE
        return item


def _leave_the_terminal(worker: int) -> None:
    """Form a process group: Ctrl-C is for the main process, which still needs its workers to reach a step's end."""
    if hasattr(os, "setpgid"):
        os.setpgid(0, 0)


@contextmanager
def _deaths_noticed_when_waiting() -> Iterator[None]:
    """Undo torch's handler of a worker's death, which raises wherever the program is, in the midst of saving too."""
    if not hasattr(signal, "SIGCHLD") or threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGCHLD)
    yield
    signal.signal(signal.SIGCHLD, before)


def _collate_or_complain(items: Sequence[Item | ImageError]) -> Batch | ImageError:
    good = []
    for item in items:
        if isinstance(item, ImageError):
            return item
        good.append(item)
    return collate(good)


ImageLike = str | Path | bytes | Image.Image | Tensor
"""A file, its bytes, a Pillow image, or a tensor (3, height, width): uint8, or floats from 0 to 1."""


def read_ahead(
    images: Iterator[ImageLike], transform: Transform, *, size: int
) -> Iterator[list[Tensor | ImageError]]:
    """Read and transform `size` images at a time in threads (Pillow works beside Python), one batch ahead."""

    def read(image: ImageLike) -> Tensor | ImageError:
        try:
            given = _to_pillow(image) if isinstance(image, Tensor) else image
            upright = read_image(given, at_least=transform.at_least)
            return transform(upright, random.Random(0))  # no preset for captioning draws from it
        except ImageError as error:
            return error

    with ThreadPoolExecutor(thread_name_prefix="read-image") as pool:
        pending = [pool.submit(read, image) for image in itertools.islice(images, size)]
        while pending:
            following = [pool.submit(read, image) for image in itertools.islice(images, size)]
            yield [task.result() for task in pending]
            pending = following


def _to_pillow(image: Tensor) -> Image.Image:
    if image.dim() != 3 or image.shape[0] != 3:
        raise ImageError("tensor", f"has shape {tuple(image.shape)}: expected (3, height, width)")
    if image.is_floating_point():
        image = (image.clamp(0, 1) * 255).round()
    return Image.fromarray(image.to("cpu", torch.uint8).permute(1, 2, 0).numpy())
