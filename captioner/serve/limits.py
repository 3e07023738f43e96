"""Limits of what a request may ask for: its size, its images, its options, its time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Mapping, Sequence
from typing import Any, TypeVar
from urllib.parse import parse_qsl

from starlette.requests import ClientDisconnect, Request

from captioner.config.schema import DecodingConfig
from captioner.config.service import MIB, ServiceConfig
from captioner.serve.errors import ServiceError

Result = TypeVar("Result")

_LISTS = ("require", "forbid", "caption")  # options that may be given several times
_MAY_BE_NULL = tuple(
    name for name, field in DecodingConfig.model_fields.items() if field.annotation == int | None
)
_FLAGS = {"true": True, "1": True, "": True, "false": False, "0": False}


class ClientGoneError(Exception):
    """The client has hung up: nobody waits for the answer."""


class MemoryBudget:
    """The bytes of all requests that are held at a time."""

    def __init__(self, limit: int) -> None:
        self.limit, self.held = limit, 0

    def take(self, size: int) -> None:
        """Hold so many more bytes.

        Raises:
            ServiceError: 429: the sum of the requests that are held would be above the limit.
        """
        if self.held + size > self.limit:
            raise ServiceError.busy(
                f"the requests that wait have {self.held / MIB:.0f} of {self.limit / MIB:.0f} MiB; "
                "try again later",
                seconds=1,
            )
        self.held += size


class HeldBody:
    """The body of a request, whose bytes count until they are released."""

    def __init__(self, budget: MemoryBudget) -> None:
        self._budget, self._size, self.content = budget, 0, b""

    async def read(self, request: Request, config: ServiceConfig) -> None:
        """Read the body; nothing is read of one that says that it is too large.

        Raises:
            ServiceError: 413, or 429 if the sum of all bodies would be above the limit, or 408.
            ClientGoneError: the client has hung up.
        """
        limit = config.max_request_mb * MIB
        announced = request.headers.get("content-length", "")
        if announced.isdecimal() and int(announced) > limit:
            raise _too_large(config)
        chunks = []
        try:
            async with asyncio.timeout(config.read_timeout):
                async for chunk in request.stream():
                    if self._size + len(chunk) > limit:
                        raise _too_large(config)
                    self._budget.take(len(chunk))
                    self._size += len(chunk)
                    chunks.append(chunk)
        except TimeoutError:
            raise ServiceError(
                408, f"the request did not arrive within {config.read_timeout:g} s"
            ) from None
        except ClientDisconnect:
            raise ClientGoneError from None
        self.content = b"".join(chunks)

    def release(self) -> None:
        """Count the bytes no more."""
        self._budget.held -= self._size
        self._size, self.content = 0, b""


async def held_body(request: Request, budget: MemoryBudget, config: ServiceConfig) -> HeldBody:
    """Return the body of a request, whose caller releases it.

    Raises:
        ServiceError, ClientGoneError: as of `HeldBody.read`.
    """
    body = HeldBody(budget)
    try:
        await body.read(request, config)
    except BaseException:
        body.release()
        raise
    return body


def _too_large(config: ServiceConfig) -> ServiceError:
    return ServiceError(413, f"the request is larger than {config.max_request_mb} MiB")


def check_encoding(request: Request) -> None:
    """Raise an error for a compressed body: its bytes would be taken for a strange image.

    Raises:
        ServiceError: 415.
    """
    coding = request.headers.get("content-encoding", "identity")
    if coding.lower() != "identity":
        raise ServiceError(
            415,
            f"the body has the Content-Encoding {coding[:20]!r}: send it without any",
            code="content_encoding",
        )


def parse_query(request: Request, flags: tuple[str, ...]) -> tuple[dict[str, Any], dict[str, bool]]:
    """Return the decoding settings that a request asks for, and the values of `flags`.

    `null` is no value, where a setting can have none.

    Raises:
        ServiceError: 400: one is given twice; 422: there is a `url`.
    """
    query = request.scope["query_string"].decode("latin-1")
    changes: dict[str, Any] = {}
    found = dict.fromkeys(flags, False)
    for name, value in parse_qsl(query, keep_blank_values=True):
        if name == "url":
            raise ServiceError(
                422,
                "unknown option 'url': the service fetches nothing; send the bytes of the image",
            )
        if name in flags:
            if value.lower() not in _FLAGS:
                raise ServiceError(
                    400, f"{name} is {value[:40]!r}: use true or false", code="bad_options"
                )
            found[name] = _FLAGS[value.lower()]
        elif name in _LISTS:
            changes.setdefault(name, []).append(value)
        elif name in changes:
            raise ServiceError(400, f"{name[:40]!r} is given twice", code="bad_options")
        else:
            changes[name] = None if value == "null" and name in _MAY_BE_NULL else value
    return changes, found


def check_search(
    settings: DecodingConfig, changes: Mapping[str, Any], config: ServiceConfig
) -> None:
    """Raise an error for a search that is too large; what the model folder stores is not judged.

    Raises:
        ServiceError: 400: names the setting and its limit.
    """
    sizes = {
        **{name: getattr(settings, name) for name in ("beam", "captions", "groups")},
        **{name: len(getattr(settings, name)) for name in ("require", "forbid")},
    }
    limits = {**dict.fromkeys(sizes, config.max_beam), "max_length": config.max_words}
    sizes |= {"max_length": settings.max_length}
    for name in ("min_length", "no_repeat_ngram"):
        sizes[name], limits[name] = getattr(settings, name) or 0, config.max_words
    for name, size in sizes.items():
        if name in changes and size > limits[name]:
            raise ServiceError(
                400,
                f"{name} is {size}: the most that this service does is {limits[name]}",
                code="bad_options",
            )
    for name in {"prefix", "require", "forbid"} & changes.keys():
        if sum(map(len, changes[name])) > config.max_text:
            raise ServiceError(
                400, f"{name} is longer than {config.max_text} characters", code="bad_options"
            )


def check_count(count: int, what: str, config: ServiceConfig) -> None:
    """Raise an error for more images or texts than a request may have.

    Raises:
        ServiceError: 413.
    """
    if count > config.max_images:
        raise ServiceError(
            413, f"{count} {what}: a request may have {config.max_images}", code="too_many"
        )


def check_texts(texts: Sequence[str], what: str, config: ServiceConfig) -> None:
    """Raise an error for more texts than a request may have, or for one that is too long.

    Raises:
        ServiceError: 413.
    """
    check_count(len(texts), what, config)
    if (longest := max(map(len, texts))) > config.max_text:
        raise ServiceError(
            413,
            f"one of the {what} has {longest} characters: the most is {config.max_text}",
            code="too_long",
        )


async def unless_gone(request: Request, work: Awaitable[Result]) -> Result:
    """Return the result of `work`, which is cancelled if the client hangs up.

    Raises:
        ClientGoneError: it has.
    """
    task = asyncio.ensure_future(work)
    gone = asyncio.create_task(_wait_until_gone(request))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise ClientGoneError
    finally:
        for each in (task, gone):
            each.cancel()
        await asyncio.gather(task, gone, return_exceptions=True)


async def _wait_until_gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
