"""Ctrl-C and SIGTERM → a wish to stop at the next step boundary, on which all ranks agree."""

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
_NOTICE = (
    b"\ncaptioner: stopping after this step, with a checkpoint; the same again stops at once\n"
)
_PERIOD = 1.0  # seconds between two times that ranks ask each other, about


class Interrupted(SystemExit):
    """A signal ends the program, after where it stood was saved; the exit code is 128 and the signal's number."""

    def __init__(self, number: int) -> None:
        super().__init__(128 + number)


class SignalHandler:
    """Note the first signal instead of stopping, as long as the block lasts; a second one does what it always did.

    In another thread than the main one, which Python lets have no signals, nothing is noted.
    """

    def __init__(self, ranks: Ranks) -> None:
        self.ranks = ranks
        self.received: int | None = None
        self._before: dict[int, object] = {}
        self._steps, self._until, self._since = 0, 1, time.monotonic()

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._note) for number in SIGNALS}
        return self

    def __exit__(self, *error: object) -> None:
        self._restore()

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.received = number
        self._restore()
        if self.ranks.is_first:
            os.write(
                2, _NOTICE
            )  # a signal may come in the middle of a print, which cannot begin another

    def _restore(self) -> None:
        while self._before:
            number, handler = self._before.popitem()
            signal.signal(number, handler)  # type: ignore[arg-type]  # what `signal` gave

    @property
    def wanted(self) -> bool:
        """Whether this rank was told to stop."""
        return self.received is not None

    def agreed(self) -> bool:
        """Say, after each step, whether all ranks stop here because one of them was told to.

        Ranks ask each other about once a second only: on a busy CPU it takes milliseconds. How many steps that is
        follows from how long the last ones took on all of them, so that all come to the same number.
        """
        if self.ranks.count == 1:
            return self.wanted
        self._steps += 1
        if self._steps < self._until:
            return False
        news = torch.tensor(
            [float(self.wanted), time.monotonic() - self._since], device=self.ranks.device
        )
        told, seconds = map(float, self.ranks.sum(news))
        self._until = max(1, int(self._steps * self.ranks.count * _PERIOD / seconds))
        self._steps, self._since = 0, time.monotonic()
        return told > 0

    def end(self) -> Interrupted:
        """Give the end of the program; a rank that was told nothing follows the one that was."""
        return Interrupted(self.received or signal.SIGTERM)
