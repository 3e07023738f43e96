"""Work that runs beside Python, reading and decoding files above all, spread over threads."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Thing = TypeVar("Thing")
Result = TypeVar("Result")

AHEAD = 64


def map_ahead(function: Callable[[Thing], Result], things: Iterable[Thing], *, threads: int) -> Iterator[Result]:
    """As `map`, in order, but in threads and ahead of use: up to 64 results wait, however many things there are."""
    with ThreadPoolExecutor(threads) as pool:
        waiting: deque[Future[Result]] = deque()
        for thing in things:
            waiting.append(pool.submit(function, thing))
            if len(waiting) == AHEAD:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
