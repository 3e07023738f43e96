"""Streams of items, processed in order and read ahead: in batches, or one by one in threads."""

from __future__ import annotations

import math
import sys
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Set
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import copy_context
from queue import Empty, SimpleQueue
from threading import Event, Semaphore, Thread
from typing import NamedTuple, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

PAUSE = 0.05  # seconds without a new item after which a batch is not waited for
LATEST = 0.5  # seconds after which the first item of a batch does not wait for more
CLOSING = 1.0  # seconds that closing a stream waits for an item that is being asked for
MAX_PENDING = 64


class _End(NamedTuple):
    """The end of the items."""

    error: BaseException | None  # that ended them


def batches_as_ready(
    items: Iterable[Item], size: int, *, start: Callable[[Item], Result]
) -> Generator[list[Result], None, None]:
    """Yield what `start` returns for each item, in order, up to `size` at a time.

    What has a length and indices, such as a list or a map-style dataset of PyTorch, and sets give
    full batches. Other iterables can be live: what has come is yielded
    when no item follows for 50 ms, or when the first item of the batch has waited for 0.5 s.

    The items are asked for in a thread of its own, in which `start` is called. It is never more
    than a batch ahead of the one that was yielded. An exception of the iterable is raised after the
    batches of the items before it. Closing the generator ends the thread; if the iterable blocks,
    only when it gives its next item.
    """
    has_indices = hasattr(items, "__len__") and hasattr(items, "__getitem__")
    are_at_hand = has_indices or isinstance(items, Set)
    source = iter(items)
    arrived: SimpleQueue[tuple[Result] | _End] = SimpleQueue()
    places = Semaphore(2 * size)  # of the batch that was yielded, and of the next
    closed = Event()
    asked = math.inf  # when the source was asked for an item that it has not given

    def waited() -> float:
        return time.monotonic() - asked

    def feed(_stdin: object) -> None:
        nonlocal asked
        error = None
        try:
            while places.acquire() and not closed.is_set():
                asked = time.monotonic()
                item = next(source)
                asked = math.inf
                if not closed.is_set():
                    arrived.put((start(item),))
        except StopIteration:
            pass
        except BaseException as raised:
            error = raised
        arrived.put(_End(error))

    # A thread that the process does not wait for at its end: a live iterable can block for ever. It
    # holds `sys.stdin`, whose buffer it may be reading: Python would abort when it closes that.
    run, args = copy_context().run, (feed, sys.stdin)
    feeder = Thread(target=run, args=args, name="read-ahead", daemon=True)
    feeder.start()
    try:
        end = None
        while end is None:
            batch, end = _collect(arrived, size, None if are_at_hand else waited)
            if batch:
                yield batch
                places.release(len(batch))
        if end.error is not None:
            raise end.error
    finally:
        closed.set()
        places.release()
        feeder.join(CLOSING)


def _collect(
    arrived: SimpleQueue[tuple[Result] | _End], size: int, waited: Callable[[], float] | None
) -> tuple[list[Result], _End | None]:
    """Return the next batch, and the end if it follows.

    `waited` returns for how many seconds the next item has been asked for; None: wait for it.
    """
    batch: list[Result] = []
    started = 0.0
    while len(batch) < size:
        try:
            arrival = arrived.get(timeout=PAUSE if batch and waited else None)
        except Empty:
            is_late = time.monotonic() - started >= LATEST
            if is_late or (waited and waited() >= PAUSE):
                break
            continue
        if isinstance(arrival, _End):
            return batch, arrival
        if not batch:
            started = time.monotonic()
        batch.append(arrival[0])
        if waited and time.monotonic() - started >= LATEST and arrived.empty():
            break
    return batch, None


def map_ahead(
    function: Callable[[Item], Result], items: Iterable[Item], *, threads: int
) -> Iterator[Result]:
    """Map in threads, ahead of use: like `map`, in order, with up to 64 results pending."""
    with ThreadPoolExecutor(threads) as pool:
        pending: deque[Future[Result]] = deque()
        for item in items:
            pending.append(pool.submit(function, item))
            if len(pending) == MAX_PENDING:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
