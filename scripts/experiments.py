"""What scripts that train many models share: cached features, a pool of processes, and a way to end them."""

from __future__ import annotations

import itertools
import math
import os
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, redirect_stderr
from multiprocessing import get_context, parent_process
from pathlib import Path
from typing import TypeVar

from pages import cpu

from captioner.config.schema import Config, DeviceName
from captioner.errors import CaptionerError

Task = TypeVar("Task")
Result = TypeVar("Result")


def run_all(
    work: Callable[[Task], Result], tasks: Iterable[Task], *, jobs: int, until: float = math.inf
) -> Iterator[tuple[Task, Result | CaptionerError]]:
    """Do the work for each task, `jobs` at once, each in a process of one thread; give what came of it, as it comes.

    Nothing more is begun after `until`, in seconds of `time.monotonic`, and what is being done is finished. A task that
    fails gives its error and the others go on; what is not a CaptionerError is a bug, and raised.

    Raises:
        CaptionerError: a process was killed.
    """
    waiting = iter(tasks)
    running: dict[Future[Result], Task] = {}
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn"), initializer=_prepare) as pool:
        while True:
            room = jobs - len(running) if time.monotonic() < until else 0
            running |= {pool.submit(work, task): task for task in itertools.islice(waiting, room)}
            if not running:
                return
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                outcome = _outcome(future)
                yield running.pop(future), outcome


def _outcome(future: Future[Result]) -> Result | CaptionerError:
    try:
        return future.result()
    except CaptionerError as error:
        return error
    except BrokenProcessPool:
        raise CaptionerError(
            "a process ended in the middle of its work, perhaps for want of memory: "
            "start again with fewer --jobs; what is done is kept"
        ) from None


def _prepare() -> None:
    """Set up a process: one thread, an end at once by Ctrl-C, and none that outlives the one that started it."""
    os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = "1"
    signal.signal(signal.SIGINT, signal.SIG_DFL)

    def leave_with_parent() -> None:
        parent = parent_process()
        assert parent is not None
        parent.join()
        os._exit(1)

    threading.Thread(target=leave_with_parent, daemon=True).start()


@contextmanager
def log_to(path: Path) -> Iterator[None]:
    """Write to a file what a training says on stderr, where several at once would talk over each other."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file, redirect_stderr(file):
        yield


def fill_features(config: Config, *, device: DeviceName = "cpu") -> None:
    """Compute the features that runs beside `config.output` share, so that no two of them do it at once."""
    import torch

    from captioner.data.batching import EpochSampler
    from captioner.data.splits import load_splits
    from captioner.devices import pick_device
    from captioner.distributed import Ranks
    from captioner.training.loaders import LoaderFactory
    from captioner.training.train import start_model

    alone = Ranks(0, 1, pick_device(device))
    with log_to(config.output.parent / "features.log"):
        train, dev = load_splits(config.data, alone)
        torch.manual_seed(config.training.seed)  # of a trunk that starts from nothing
        model, vocabulary = start_model(config, train, None)
        model.encoder.to(alone.device)
        feeder = LoaderFactory(config, model.encoder, vocabulary, train=train, dev=dev, ranks=alone)
        for phase in config.training.phases:
            feeder.train_loader(
                phase, EpochSampler(len(train), config.training.batch_size, config.training.seed)
            )
            feeder.dev_loader(phase)


def machine() -> str:
    """Name what computes."""
    import torch

    return f"{cpu()}, torch {torch.__version__}"
