"""Ctrl-C and SIGTERM: a request to stop after the present step, on which all ranks agree."""

from __future__ import annotations

import os
import signal
import threading
import time
from types import FrameType
from typing import Self

import torch

from captioner.distributed import Ranks

SIGNALS = (signal.SIGINT, signal.SIGTERM)
_NOTICE = b"\ncaptioner: stopping after this step, with a checkpoint; repeat to stop at once\n"
_PERIOD = 1.0  # approximate seconds between two exchanges of the ranks


class Interrupted(SystemExit):
    """A signal ended the run, after a checkpoint was saved. The exit code is 128 + its number."""

    def __init__(self, signal_number: int) -> None:
        super().__init__(128 + signal_number)


class SignalHandler:
    """Context manager that records the first signal. A second one has its former effect.

    Outside of the main thread, where Python allows no signal handlers, nothing is recorded.
    """

    def __init__(self, ranks: Ranks) -> None:
        self.ranks = ranks
        self.received: int | None = None
        self._former_handlers: dict[int, object] = {}
        # Steps since the last exchange of the ranks, the number at which the next is due, its time.
        self._steps, self._next_exchange, self._last_time = 0, 1, time.monotonic()

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            self._former_handlers = {
                number: signal.signal(number, self._record) for number in SIGNALS
            }
        return self

    def __exit__(self, *error: object) -> None:
        self._restore_handlers()

    def _record(self, number: int, frame: FrameType | None) -> None:
        self.received = number
        self._restore_handlers()
        if self.ranks.is_first:
            os.write(2, _NOTICE)  # the signal may interrupt a print, which is not reentrant

    def _restore_handlers(self) -> None:
        while self._former_handlers:
            number, handler = self._former_handlers.popitem()
            signal.signal(number, handler)  # type: ignore[arg-type]  # as `signal` returned it

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
        return Interrupted(self.received or signal.SIGTERM)
