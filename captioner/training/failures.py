"""Failures that end a run but are no bugs: errors of one line, with a hint how to resume."""

from __future__ import annotations

import errno
import json
import os
import re
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType
from typing import Self

import torch

from captioner.config.training import TrainingConfig
from captioner.console import console
from captioner.data.datasets import Example
from captioner.data.parallel import Pair
from captioner.data.plain_text import TextExample
from captioner.data.splits import SourceExample
from captioner.distributed import Ranks, is_lost_connection
from captioner.errors import CaptionerError, ImageError, first_few
from captioner.storage import atomic_file, free_space
from captioner.training.checkpoint import resume_hint
from captioner.training.loop import NotFiniteError

# torch and the libraries below it report these with the type RuntimeError. A primitive *descriptor*
# that oneDNN cannot create is an operation without an implementation, not a lack of memory.
_OUT_OF_MEMORY = re.compile(
    r"DefaultCPUAllocator: (can't allocate|not enough) memory"
    r"|could not (create|execute) a primitive(?! descriptor)|could not create a memory object"
    r"|std::bad_alloc|(CUDA error:|MPS backend|XPU) out of memory|Cannot allocate memory \(12\)"
    r"|CU(BLAS|DNN|SOLVER)_STATUS_\w*ALLOC\w*_FAILED"
)
_OUT_OF_SHARED_MEMORY = re.compile(
    r"unable to (open|allocate|resize|mmap|write to) [^:\n]*(shared memory|</torch_)"
)
_TOO_MANY_FILES = (errno.EMFILE, errno.ENFILE)


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error means that a CPU or a GPU has too little memory."""
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or (
        isinstance(error, RuntimeError) and bool(_OUT_OF_MEMORY.search(str(error)))
    )


@contextmanager
def explain_failures(
    output: Path, settings: TrainingConfig, *, is_first: bool = True
) -> Iterator[None]:
    """Turn errors of images, memory, the disk or another rank into a CaptionerError.

    On a Ctrl-C that stops the run at once, print how to resume it. If another rank has ended, only
    the first one says so (`is_first`); the others exit.
    """
    try:
        yield
    except KeyboardInterrupt:
        console.print(resume_hint(output))
        raise
    except ImageError as error:
        raise CaptionerError(
            f"{error}: fix it or remove it from the annotations, or set data.on_bad_image=skip; "
            f"{resume_hint(output)}"
        ) from error
    except (MemoryError, RuntimeError, OSError) as error:
        if is_lost_connection(error) and not is_first:
            raise SystemExit(CaptionerError.exit_code) from error
        explanation = _explain(error, output, settings)
        if explanation is None:
            raise
        raise CaptionerError(explanation) from error


def _explain(error: Exception, output: Path, settings: TrainingConfig) -> str | None:
    """Return what an error of the machine means, or None if it is a bug."""
    hint = resume_hint(output)
    # first, because a limit of files keeps workers from sharing memory
    if getattr(error, "errno", None) in _TOO_MANY_FILES or "Too many open files" in str(error):
        return (
            "too many open files: raise the limit (ulimit -n 65536), or lower training.workers; "
            f"{hint}"
        )
    if is_out_of_memory(error):
        return (
            f"out of memory with training.batch_size={settings.batch_size} and "
            f"training.accumulate={settings.accumulate}, so no step was taken: set "
            "training.accumulate to auto or to a larger number, which keeps the batch, or "
            f"lower training.batch_size (or encoder.image_size); {hint}"
        )
    if _OUT_OF_SHARED_MEMORY.search(str(error)):
        return (
            "the worker processes have too little shared memory (/dev/shm): set "
            f"training.workers=0, or give it more (docker run --shm-size=8g); {hint}"
        )
    if is_lost_connection(error):
        return f"another rank has ended, so this one ends too: {hint}"
    if isinstance(error, OSError):
        path = Path(error.filename) if isinstance(error.filename, str) else output
        return (
            f"{path}: {error.strerror or error} ({free_space(output)} MiB free in {output}); "
            f"what was saved before is untouched: {hint}"
        )
    return None


@contextmanager
def list_images_if_not_finite(
    output: Path, examples: Sequence[SourceExample | TextExample], ranks: Ranks
) -> Iterator[None]:
    """List the examples of a batch whose loss or gradient is not finite in not-finite.json.

    The NotFiniteError becomes a CaptionerError of the first rank; the other ranks exit.
    """
    try:
        yield
    except NotFiniteError as error:
        indices = [i for batch in error.micro_batches for i in batch.example_index.tolist()]
        shards = ranks.gather([examples[index] for index in indices])
        if not ranks.is_first:
            raise SystemExit(error.exit_code) from error
        batch = [example for shard in shards for example in shard]
        file = output / "not-finite.json"
        _write_not_finite(file, error, batch)
        first = first_few([_name(example) for example in batch])
        noun = "texts" if isinstance(batch[0], Pair) else "images"
        raise CaptionerError(
            f"{error}; its {noun} are {first} (all {len(batch)} in {file}): lower learning_rate "
            f"or gradient_clip, or set training.precision=fp32, and {resume_hint(output)}"
        ) from error


def _name(example: SourceExample | TextExample) -> object:
    match example:
        case Example():
            return example.image_id
        case Pair():
            return example.place
        case _:
            return repr(example.caption)


def _write_not_finite(
    file: Path, error: NotFiniteError, batch: Sequence[SourceExample | TextExample]
) -> None:
    images = [example for example in batch if isinstance(example, Example)]
    pairs = [example for example in batch if isinstance(example, Pair)]
    text = [example.caption for example in batch if isinstance(example, TextExample)]
    lists = {
        "images": [{"image_id": each.image_id, "file": str(each.path)} for each in images],
        "pairs": [pair._asdict() for pair in pairs],
        "text": text,
    }
    content = {
        "loss": str(error.loss),
        "gradient_norm": str(error.gradient_norm),
        **{name: values for name, values in lists.items() if values},
    }
    with atomic_file(file) as stream:
        json.dump(content, stream, indent=1)


SIGNALS = (signal.SIGINT, signal.SIGTERM)
_NOTICE = b"\ncaptioner: stopping after this step, with a checkpoint; repeat to stop at once\n"
_PERIOD = 1.0  # approximate seconds between two exchanges of the ranks


class Interrupted(SystemExit):
    """A signal ended the run, after a checkpoint was saved. The exit code is 128 + its number."""


class SignalHandler:
    """Context manager that records the first signal. Earlier handlers get a second one.

    Outside of the main thread, where Python allows no signal handlers, nothing is recorded.
    """

    def __init__(self, ranks: Ranks) -> None:
        self.ranks = ranks
        self.received: int | None = None
        self._former_handlers = ExitStack()  # closing it sets them again
        # Steps since the last exchange of the ranks, steps between two exchanges, time of the last.
        self._steps, self._next_exchange, self._last_time = 0, 1, time.monotonic()

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                former = signal.signal(number, self._record)
                self._former_handlers.callback(signal.signal, number, former)
        return self

    def __exit__(self, *error: object) -> None:
        self._former_handlers.close()

    def _record(self, number: int, frame: FrameType | None) -> None:
        self.received = number
        self._former_handlers.close()
        if self.ranks.is_first:
            os.write(2, _NOTICE)  # the signal may interrupt a print, which is not reentrant

    def stop_requested(self) -> bool:
        """Return whether this rank has received a signal."""
        return self.received is not None

    def all_ranks_stop(self) -> bool:
        """Return whether all ranks stop after this step. Every rank must call it after each step.

        The ranks exchange their requests about once a second only, because an exchange takes
        milliseconds on a busy CPU. The number of steps in between follows from the duration of the
        last ones, summed over the ranks, so it is the same on all of them.
        """
        if self.ranks.world_size == 1:
            return self.stop_requested()
        self._steps += 1
        if self._steps < self._next_exchange:
            return False
        seconds = time.monotonic() - self._last_time
        local = torch.tensor([float(self.stop_requested()), seconds], device=self.ranks.device)
        requests, total_seconds = map(float, self.ranks.sum(local))
        rank_steps = self._steps * self.ranks.world_size
        self._next_exchange = max(1, int(rank_steps * _PERIOD / total_seconds))
        self._steps, self._last_time = 0, time.monotonic()
        return requests > 0

    def interruption(self) -> Interrupted:
        """Return the exception that ends the run, with the exit code of the signal.

        A rank that received none stops as for SIGTERM.
        """
        return Interrupted(128 + (self.received or signal.SIGTERM))
