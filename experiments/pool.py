"""Train many models: a pool of processes, their logs, and the features that they share."""

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

from captioner.config.run import Config
from captioner.devices import DeviceName, pick_device
from captioner.errors import CaptionerError

Task = TypeVar("Task")
Result = TypeVar("Result")


def run_all(
    work: Callable[[Task], Result], tasks: Iterable[Task], *, jobs: int, until: float = math.inf
) -> Iterator[tuple[Task, Result | CaptionerError]]:
    """Run `work` on each task in processes of one thread; yield results as they are completed.

    A task that raises a CaptionerError yields it, and the others continue.

    Args:
        work: what to call; it is pickled.
        tasks: its arguments, in the order in which they start.
        jobs: number of processes.
        until: no task starts after this time of `time.monotonic`; those that run are completed.

    Raises:
        CaptionerError: a process was killed.
        Exception: `work` raised any other exception, which is a bug.
    """
    waiting = iter(tasks)
    running: dict[Future[Result], Task] = {}
    context = get_context("spawn")
    with ProcessPoolExecutor(jobs, mp_context=context, initializer=_set_up_process) as pool:
        while True:
            free = jobs - len(running) if time.monotonic() < until else 0
            running |= {pool.submit(work, task): task for task in itertools.islice(waiting, free)}
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
            "a process was killed, perhaps because memory ran out: "
            "start again with fewer --jobs; completed results are kept"
        ) from None


def _set_up_process() -> None:
    """Use one thread; exit immediately on Ctrl-C, and when the parent process ends."""
    os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = "1"
    signal.signal(signal.SIGINT, signal.SIG_DFL)

    def exit_with_parent() -> None:
        parent = parent_process()
        assert parent is not None
        parent.join()
        os._exit(1)

    threading.Thread(target=exit_with_parent, daemon=True).start()


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Stop what runs in the main thread of a process after this time.

    Raises:
        CaptionerError: the time is over.
    """

    def stop(*_: object) -> None:
        raise CaptionerError(f"stopped after {seconds / 60:g} minutes")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@contextmanager
def log_to(path: Path) -> Iterator[None]:
    """Append stderr to a file: the output of several processes would be mixed on a terminal."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file, redirect_stderr(file):
        yield


def fill_features(config: Config, *, device: DeviceName = "cpu") -> None:
    """Cache the features of a config's images, which the runs in the same folder share.

    Without this, several runs would compute them at the same time.
    """
    import torch

    from captioner.data.splits import load_splits
    from captioner.distributed import Ranks
    from captioner.training.loaders import ImageLoaders
    from captioner.training.train import start_model

    ranks = Ranks(0, 1, pick_device(device))
    with log_to(config.output.parent / "features.log"):
        splits = load_splits(config.data, ranks)
        torch.manual_seed(config.training.seed)  # of a trunk with random weights
        model, vocabulary, _ = start_model(config, splits.train_examples, None)
        model.encoder.to(ranks.device)
        loaders = ImageLoaders(config, model.encoder, vocabulary, splits, ranks=ranks)
        for phase in config.training.phases:
            loaders.train_loader(phase, loaders.sampler(phase))
            loaders.dev_loader(phase)
