"""A load generator for a service over HTTP: closed and open loops, with percentiles of the latency.

Closed loop: each of N clients sends its next request when the last one is answered. Open loop:
requests are sent at fixed times, whether others are answered or not, and the latency counts from
these times, as that of users who do not know of each other.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

import httpx
import numpy as np

MAX_IN_FLIGHT = 256  # requests of an open loop; later ones wait, and this counts as latency
TIMEOUT = 120.0  # seconds of a request

Send = Callable[[int, float], Awaitable[None]]
"""Send the request of a number, which is due at a time, and wait for the answer."""


@dataclass(frozen=True)
class Closed:
    """So many clients, each of which sends its next request when the last one is answered."""

    clients: int

    def __str__(self) -> str:
        return f"{self.clients} client{'s' * (self.clients > 1)}"

    async def run(self, send: Send, count: int) -> None:
        """Send `count` requests, each due when its client is free."""
        numbers = iter(range(count))  # shared by all clients

        async def client() -> None:
            for number in numbers:
                await send(number, time.perf_counter())

        await asyncio.gather(*(client() for _ in range(self.clients)))


@dataclass(frozen=True)
class Open:
    """So many requests a second, at fixed times."""

    rate: float

    def __str__(self) -> str:
        return f"{self.rate:g} a second"

    async def run(self, send: Send, count: int) -> None:
        """Send `count` requests, each due at its time."""
        room = asyncio.Semaphore(MAX_IN_FLIGHT)

        async def one(number: int, due: float) -> None:
            async with room:
                await send(number, due)

        start = time.perf_counter()
        async with asyncio.TaskGroup() as tasks:
            for number in range(count):
                due = start + number / self.rate
                await asyncio.sleep(max(0.0, due - time.perf_counter()))
                tasks.create_task(one(number, due))


Loop = Closed | Open


@dataclass
class Measured:
    """What was measured of a service under a load, in one turn or several."""

    seconds: float = 0.0
    latencies: list[float] = field(default_factory=list)  # seconds, of what was answered with 200
    failed: int = 0
    captions: dict[int, str] = field(default_factory=dict)  # of each photograph

    def summary(self) -> dict[str, float]:
        """Return requests a second, percentiles of the latency in ms, and failed requests."""
        p50, p95, p99 = np.percentile(self.latencies or [np.nan], [50, 95, 99]) * 1e3
        return {
            "requests a second": len(self.latencies) / self.seconds,
            "p50 ms": float(p50),
            "p95 ms": float(p95),
            "p99 ms": float(p99),
            "failed": self.failed,
        }


def new_client() -> httpx.AsyncClient:
    """Return a client with so many connections, which asks no proxy of the environment."""
    limits = httpx.Limits(max_connections=MAX_IN_FLIGHT, max_keepalive_connections=MAX_IN_FLIGHT)
    return httpx.AsyncClient(limits=limits, timeout=TIMEOUT, trust_env=False)


async def run_turn(
    client: httpx.AsyncClient,
    url: str,
    photos: Sequence[bytes],
    loop: Loop,
    count: int,
    measured: Measured,
) -> None:
    """Send `count` requests for captions, each of a photograph, and add to `measured`."""

    async def send(number: int, due: float) -> None:
        photo = number % len(photos)
        form = {"file": (f"{photo}.jpg", photos[photo])}
        try:
            reply = await client.post(f"{url}/v1/caption", files=form)
            reply.raise_for_status()
        except httpx.HTTPError:
            measured.failed += 1
            return
        measured.latencies.append(time.perf_counter() - due)
        measured.captions[photo] = reply.json()["results"][0]["caption"]

    start = time.perf_counter()
    await loop.run(send, count)
    measured.seconds += time.perf_counter() - start
