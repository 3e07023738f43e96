"""Dynamic batching: items with the same key form a batch.

Each worker takes the oldest item, and others with the same key. A batch does not wait for more than
`max_wait` seconds. Where several workers are idle, they share what waits.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Protocol

from captioner.serve.errors import ServiceError

Compute = Callable[[Hashable, Sequence[Any]], Sequence[Any]]
"""Computes a batch in a thread: its key and items → their results."""

SMOOTHING = 0.2  # weight of the last batch in the mean time of an item

log = logging.getLogger("captioner.serve")


class Observer(Protocol):
    """What is told of the batches, for metrics."""

    def batch(self, size: int, seconds: float) -> None:
        """Count a batch that was computed."""

    def waited(self, seconds: float) -> None:
        """Count the time of an item before its batch."""


@dataclass(eq=False)
class _Job:
    """An item that waits. Its future is cancelled if nobody waits for the result any more."""

    item: Any
    future: asyncio.Future[Any]
    arrived: float


class Batcher:
    """A bounded queue before the threads that compute."""

    def __init__(
        self,
        compute: Compute,
        *,
        workers: int,
        max_batch: int,
        max_wait: float,
        max_queue: int,
        observer: Observer | None = None,
    ) -> None:
        self._compute, self._observer = compute, observer
        self.workers, self.max_batch, self.max_wait = workers, max_batch, max_wait
        self.max_queue = max_queue
        self._waiting: OrderedDict[Hashable, deque[_Job]] = OrderedDict()
        self._changed = asyncio.Event()  # items or places: workers look again
        self._reserved = 0  # places of items that were accepted, until they are computed
        self._computing = 0  # items that are in a batch
        self._idle = workers
        self._seconds_per_item = 0.0  # with all workers busy
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="model")
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Start the workers, in the running event loop."""
        self._tasks = [asyncio.create_task(self._work()) for _ in range(self.workers)]

    async def stop(self) -> None:
        """Stop the workers. What still waits is cancelled."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._pool.shutdown(wait=False, cancel_futures=True)

    @property
    def depth(self) -> int:
        """How many items are accepted, and wait for their batch or their image to be read."""
        return self._reserved - self._computing

    @property
    def expected_wait(self) -> float:
        """About how many seconds an item waits that is accepted now."""
        return self._reserved * self._seconds_per_item

    @contextmanager
    def places(self, count: int, *, deadline: float) -> Any:
        """Reserve places for the items of a request; `submit` within the block uses them.

        Raises:
            ServiceError: 429: too many items wait, or they would wait for longer than `deadline`.
        """
        self.check_room(count, deadline=deadline)
        places = _Places(self, count)
        self._reserved += count
        try:
            yield places
        finally:
            places.give_back()

    def check_room(self, count: int, *, deadline: float) -> None:
        """Raise an error if a request of so many items would not be accepted.

        Raises:
            ServiceError: 429.
        """
        wait = self.expected_wait
        if self._reserved + count > self.max_queue:
            raise ServiceError.busy(
                f"the queue is full: {self._reserved} of {self.max_queue} places are taken; try "
                "again later",
                seconds=wait,
            )
        if self._reserved and wait + count * self._seconds_per_item > deadline:
            raise ServiceError.busy(
                f"the queue is too long: about {wait:.0f} s; try again later", seconds=wait / 2
            )

    async def _submit(self, key: Hashable, item: Any) -> Any:
        job = _Job(item, asyncio.get_running_loop().create_future(), time.monotonic())
        self._waiting.setdefault(key, deque()).append(job)
        self._changed.set()
        return await job.future

    async def _work(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            key, jobs = await self._next_batch()
            self._idle -= 1
            self._computing += len(jobs)
            try:
                started = time.monotonic()
                if self._observer:
                    for job in jobs:
                        self._observer.waited(started - job.arrived)
                items = [job.item for job in jobs]
                results = await loop.run_in_executor(self._pool, self._run, key, items)
                self._measure(len(jobs), time.monotonic() - started)
                for job, result in zip(jobs, results, strict=True):
                    _finish(job, result)
            finally:
                self._idle += 1
                self._computing -= len(jobs)
                for job in jobs:
                    job.future.cancel()  # no effect on those that are done

    def _run(self, key: Hashable, items: Sequence[Any]) -> list[Any]:
        """Return the result of each item, or its exception; one never fails the others."""
        try:
            return list(self._compute(key, items))
        except Exception as error:
            if len(items) == 1:
                return [error]
            log.warning("a batch of %d failed (%r): one by one", len(items), error)
            return [result for item in items for result in self._run(key, [item])]

    def _measure(self, size: int, seconds: float) -> None:
        if self._observer:
            self._observer.batch(size, seconds)
        per_item = seconds / size / self.workers
        weight = SMOOTHING if self._seconds_per_item else 1.0
        self._seconds_per_item += weight * (per_item - self._seconds_per_item)

    async def _next_batch(self) -> tuple[Hashable, list[_Job]]:
        """Wait for items, and return those of the next batch: at least one."""
        while True:
            remaining = None
            if (key := self._oldest_key()) is not None:
                jobs = self._waiting[key]
                # Others may still read their images: only items that are on the way are waited for.
                full = len(jobs) >= self.max_batch or self._num_waiting() >= self.depth
                remaining = jobs[0].arrived + self.max_wait - time.monotonic()
                if full or remaining <= 0:
                    return key, self._take(key)
            self._changed.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(remaining):
                    await self._changed.wait()

    def _oldest_key(self) -> Hashable | None:
        """Return the key of the oldest item, after dropping those that nobody waits for."""
        for key in list(self._waiting):
            jobs = self._waiting[key]
            alive = deque(job for job in jobs if not job.future.done())
            if alive:
                self._waiting[key] = alive
            else:
                del self._waiting[key]
        waiting = self._waiting.items()
        return min(waiting, key=lambda each: each[1][0].arrived)[0] if waiting else None

    def _num_waiting(self) -> int:
        return sum(map(len, self._waiting.values()))

    def _take(self, key: Hashable) -> list[_Job]:
        jobs = self._waiting[key]
        share = math.ceil(len(jobs) / max(1, self._idle))  # leave some to the other idle workers
        taken = [jobs.popleft() for _ in range(min(share, self.max_batch))]
        if not jobs:
            del self._waiting[key]
        return taken


class _Places:
    """Places in the queue that a request holds until its items are computed."""

    def __init__(self, batcher: Batcher, count: int) -> None:
        self._batcher, self._count = batcher, count

    async def submit(self, key: Hashable, item: Any) -> Any:
        """Return the result of an item, when its batch is computed.

        Cancelling it drops the item. An exception of `compute` for this item is raised.
        """
        try:
            return await self._batcher._submit(key, item)
        finally:
            self.give_back(1)

    def give_back(self, count: int | None = None) -> None:
        """Give back some of the places, or all that are left."""
        given = self._count if count is None else min(count, self._count)
        self._count -= given
        self._batcher._reserved -= given
        self._batcher._changed.set()  # what does not come any more is not waited for


def _finish(job: _Job, result: object) -> None:
    if job.future.done():
        return
    if isinstance(result, Exception):
        job.future.set_exception(result)
    else:
        job.future.set_result(result)
