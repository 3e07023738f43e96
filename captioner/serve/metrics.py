"""What the service measures of itself, in the format of Prometheus."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

STAGES = ("receive", "read", "queue", "model", "total")
"""Receiving a request, reading its images, waiting for a batch, computing it, and all of it."""

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_SIZES = (1, 2, 4, 8, 16, 32, 64, 128)


class Metrics:
    """Counts requests, their times, batches and rejections. An `Observer` of the batches."""

    def __init__(self, *, depth: Callable[[], float], held_bytes: Callable[[], float]) -> None:
        """Take functions that return the number of waiting items and the bytes of requests."""
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "captioner_requests", "Requests.", ("route", "status"), registry=self.registry
        )
        self.seconds = Histogram(
            "captioner_stage_seconds",
            "Time of each stage; of model, a batch.",
            ("stage",),
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.batch_size = Histogram(
            "captioner_batch_size", "Items of a batch.", buckets=_SIZES, registry=self.registry
        )
        self.rejections = Counter(
            "captioner_rejections", "Requests refused.", ("code",), registry=self.registry
        )
        for name, text, function in (
            ("captioner_queue_depth", "Items accepted that wait for a batch.", depth),
            ("captioner_request_bytes", "Bytes of the requests that are held.", held_bytes),
        ):
            Gauge(name, text, registry=self.registry).set_function(function)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Measure the time of the block, if it ends well."""
        started = time.monotonic()
        yield
        self.seconds.labels(name).observe(time.monotonic() - started)

    def batch(self, size: int, seconds: float) -> None:
        """Count a batch that was computed."""
        self.batch_size.observe(size)
        self.seconds.labels("model").observe(seconds)

    def waited(self, seconds: float) -> None:
        """Count the time of an item before its batch."""
        self.seconds.labels("queue").observe(seconds)

    def text(self) -> bytes:
        """Return all of it as Prometheus reads it."""
        return generate_latest(self.registry)
