"""What surrounds every request: its log line, the token, and answers that clients can read."""

from __future__ import annotations

import asyncio
import hmac
import json
import sys
import time
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from captioner.config.service import MIB
from captioner.serve.errors import ServiceError
from captioner.serve.metrics import Metrics

DRAIN_BYTES = 256 * MIB  # of a body that is refused: a client may read no answer before its end
TIMEOUT = 408  # who sends too slowly has had the time
PROTECTED = ("/v1/", "/metrics")


class Drain:
    """Reads what is left of a request before it is refused, and drops it.

    Most clients read an answer only after they have sent everything, and a connection that is
    closed before that is an error to them. One that waits for leave to send (curl, with
    `Expect: 100-continue`) is answered at once.
    """

    def __init__(self, app: ASGIApp, seconds: float) -> None:
        """Read for so many seconds at most."""
        self.app, self.seconds = app, seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        has_body = b"content-length" in headers or b"transfer-encoding" in headers
        waits = b"100-continue" in headers.get(b"expect", b"").lower()
        more = has_body

        async def receive_and_note() -> Message:
            nonlocal more, waits
            message = await receive()
            waits = False
            if message["type"] == "http.disconnect" or not message.get("more_body", False):
                more = False
            return message

        async def drain_and_send(message: Message) -> None:
            starts = message["type"] == "http.response.start"
            if starts and message["status"] >= 400 and message["status"] != TIMEOUT:
                with suppress(TimeoutError):
                    async with asyncio.timeout(self.seconds):
                        drained = 0
                        while more and not waits and drained < DRAIN_BYTES:
                            drained += len((await receive_and_note()).get("body", b""))
            await send(message)

        await self.app(scope, receive_and_note, drain_and_send)


class AccessLog:
    """Writes a line of JSON for each request to stderr, and counts it. Nothing of its content."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self.app, self.metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started, status, size = time.monotonic(), 0, 0

        async def receive_and_count() -> Message:
            nonlocal size
            message = await receive()
            size += len(message.get("body", b""))
            return message

        async def send_and_note(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self.app(scope, receive_and_count, send_and_note)
        finally:
            seconds = time.monotonic() - started
            # of the route, or no name that a client has made up
            route = getattr(scope.get("route"), "path", "other")
            self.metrics.requests.labels(route, str(status or "gone")).inc()
            if status == 200 and route.startswith("/v1/"):
                self.metrics.seconds.labels("total").observe(seconds)
            _write(
                time=datetime.now(UTC).isoformat(timespec="milliseconds"),
                client=(scope.get("client") or [None])[0],
                method=scope["method"],
                path=scope["path"][:200],
                status=status or None,
                ms=round(1000 * seconds, 1),
                bytes=size,
            )


def _write(**values: Any) -> None:
    if sys.stderr is None:  # closed before the process began
        return
    with suppress(OSError, ValueError):  # its reader has ended: requests are answered without a log
        # one call: lines of other threads do not get between
        sys.stderr.write(json.dumps(values) + "\n")
        sys.stderr.flush()


class BearerToken:
    """Asks for a token. The page, its files and the documentation are open: they hold no data."""

    def __init__(self, app: ASGIApp, token: str) -> None:
        self.app, self.token = app, token.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, if it may."""
        if scope["type"] == "http" and scope["path"].startswith(PROTECTED):
            given = dict(scope["headers"]).get(b"authorization", b"")
            scheme, _, token = given.partition(b" ")
            # in a time that does not depend on how much of it is right
            if not (scheme.lower() == b"bearer" and hmac.compare_digest(token.strip(), self.token)):
                error = ServiceError(
                    401,
                    "this service asks for a token: send the header Authorization: Bearer TOKEN",
                    headers={"WWW-Authenticate": "Bearer"},
                )
                await error.response()(scope, receive, send)
                return
        await self.app(scope, receive, send)
