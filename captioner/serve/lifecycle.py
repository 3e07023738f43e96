"""The server process: its socket, its signals, and its end."""

from __future__ import annotations

import asyncio
import logging
import math
import os
import signal
import socket
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

import uvicorn
from fastapi import FastAPI
from h11 import IDLE
from uvicorn.protocols.http.h11_impl import H11Protocol

from captioner.console import console
from captioner.errors import CaptionerError
from captioner.serve.service import Service

BACKLOG = 1024  # connections that wait to be accepted
FULL_EVERY = 60.0  # seconds between lines that say that no connection can be accepted
SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Server(uvicorn.Server):
    """A server that a signal ends when what was accepted is answered; a second one, at once."""

    def __init__(self, config: uvicorn.Config, service: Service) -> None:
        super().__init__(config)
        self.service = service

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Handle signals while the block runs. uvicorn would raise them again at its end."""
        before = {number: signal.signal(number, self.handle_exit) for number in SIGNALS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Take nothing more, and end when all is answered; at once if it is the second signal."""
        if self.should_exit:
            os._exit(128 + sig)
        self.stop()

    def stop(self) -> None:
        """Take nothing more, and end when all is answered."""
        self.service.draining = self.should_exit = True


def timed_protocol(seconds: float) -> type[H11Protocol]:
    """Return a protocol that closes connections whose request does not arrive in time.

    uvicorn waits for ever for a client that opens a connection and sends a byte now and then. The
    time of a body is limited where it is read.
    """

    class TimedProtocol(H11Protocol):
        _timer: asyncio.TimerHandle | None = None

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            self._watch()

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            self._watch()

        def connection_lost(self, exc: Exception | None) -> None:
            self._stop()
            super().connection_lost(exc)

        def _watch(self) -> None:
            if self.conn.their_state is not IDLE:  # the headers are complete
                self._stop()
            elif self._timer is None:
                self._timer = self.loop.call_later(seconds, self.transport.close)

        def _stop(self) -> None:
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None

    return TimedProtocol


def open_socket(host: str, port: int) -> socket.socket:
    """Return a socket that is bound, so that a port in use is an error before a model is loaded.

    Raises:
        CaptionerError: it cannot be bound.
    """
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        # asyncio sets TCP_NODELAY only where it sees the protocol: else a reply waits for 40 ms
        bound = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind((host, port))
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise CaptionerError(
            f"{host}:{port} cannot be opened ({reason}): choose another --host or --port"
        ) from None
    return bound


def run(app: FastAPI, bound: socket.socket, *, read_timeout: float, grace: float) -> None:
    """Serve until a signal comes, and what was accepted is answered.

    Raises:
        CaptionerError: the model cannot be loaded.
        SystemExit: with 1: requests were dropped, as they took longer than `grace` seconds.
    """
    service: Service = app.state.service
    config = uvicorn.Config(
        app,
        http=timed_protocol(read_timeout),
        ws="none",
        loop="asyncio",
        lifespan="on",
        backlog=BACKLOG,
        access_log=False,
        log_config=None,
        server_header=False,
        timeout_graceful_shutdown=max(1, math.ceil(grace)),
    )
    server = Server(config, service)
    host, port = bound.getsockname()[:2]
    address = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
    service.on_ready = lambda: console.print(f"captioner: ready on {address}")
    service.on_load_failure = server.stop
    logging.basicConfig(format="captioner: %(message)s", level=logging.WARNING)
    # uvicorn warns of requests that are no HTTP, which it answers with 400
    logging.getLogger("uvicorn").setLevel(logging.ERROR)
    logging.getLogger("uvicorn.error").addFilter(_is_no_cancelled_request)
    logging.getLogger("asyncio").addFilter(_TooManyConnections())
    # Pillow warns of odd images, of which a client can send any number
    warnings.filterwarnings("ignore", module=r"PIL\.")
    server.run(sockets=[bound])
    if service.failure is not None:
        raise service.failure
    if service.dropped:
        console.print(
            f"captioner: {service.dropped} request{'s' * (service.dropped > 1)} took longer than "
            f"{grace:g} s: dropped"
        )
        sys.stderr.flush()
        os._exit(1)  # threads that compute for them would be waited for


def _is_no_cancelled_request(record: logging.LogRecord) -> bool:
    """Return False for the traceback of a request that the end of the service has cut off."""
    return not (record.exc_info and isinstance(record.exc_info[1], asyncio.CancelledError))


class _TooManyConnections(logging.Filter):
    """Shortens what asyncio logs where the process may open no more files: 1,000 tracebacks each
    second. Connections wait meanwhile, until others end or their time is over.
    """

    def __init__(self) -> None:
        super().__init__()
        self._due = -math.inf

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether to log a record; that of such a failure becomes one line."""
        if not record.getMessage().startswith("socket.accept() out of system resource"):
            return True
        record.msg, record.args, record.exc_info = (
            "no connection is accepted while so many are open: raise the limit of open files "
            "(ulimit -n)",
            (),
            None,
        )
        now = time.monotonic()
        if now < self._due:
            return False
        self._due = now + FULL_EVERY
        return True
