"""The state of the service: its model, its queue, and whether it takes requests."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from captioner.config.service import MIB, ServiceConfig
from captioner.serve.batching import Batcher
from captioner.serve.engine import Engine
from captioner.serve.errors import ServiceError
from captioner.serve.limits import MemoryBudget
from captioner.serve.metrics import Metrics

READERS = 2  # threads that read images beside the model


class Service:
    """The state of the service: its model, its queue and whether it takes requests."""

    def __init__(self, engine: Engine, config: ServiceConfig) -> None:
        self.engine, self.config = engine, config
        self.draining = False  # a signal has come: finish, and take nothing more
        self.failure: BaseException | None = None  # why the model could not be loaded
        self.dropped = 0  # requests that were accepted, and not finished in the time of grace
        self.on_ready: Callable[[], object] = lambda: None
        self.on_load_failure: Callable[[], object] = lambda: None
        self.budget = MemoryBudget(config.max_queue_mb * MIB)
        self.metrics = Metrics(
            depth=lambda: self.batcher.depth, held_bytes=lambda: self.budget.held
        )
        self.batcher = Batcher(
            engine.compute,
            workers=config.workers,
            max_batch=config.max_batch,
            max_wait=config.max_wait_ms / 1000,
            max_queue=config.max_queue,
            observer=self.metrics,
        )
        self.readers = ThreadPoolExecutor(READERS, thread_name_prefix="read")

    def check_ready(self) -> None:
        """Raise an error unless the service takes requests.

        Raises:
            ServiceError: 503.
        """
        if self.draining:
            raise ServiceError.busy("the service is shutting down", seconds=5, status=503)
        if not self.engine.is_ready:
            raise ServiceError.busy("the model is being loaded", seconds=2, status=503)

    async def in_thread(self, function: Callable[..., Any], *arguments: object) -> Any:
        """Call a function in a thread that reads images."""
        return await asyncio.get_running_loop().run_in_executor(self.readers, function, *arguments)

    async def load(self) -> None:
        """Load the model, and call `on_ready` or `on_load_failure`."""
        try:
            await asyncio.to_thread(self.engine.load)
        except Exception as error:
            self.failure = error
            self.on_load_failure()
        else:
            self.on_ready()
