"""From a request to its results: options, body, images read in threads, places, batches."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from captioner.errors import CaptionerError
from captioner.serve.engine import CaptionKey, ScoreKey, TranslationKey
from captioner.serve.errors import ServiceError, json_response, service_error
from captioner.serve.forms import parse_body
from captioner.serve.limits import (
    HeldBody,
    check_count,
    check_encoding,
    check_search,
    check_texts,
    held_body,
    parse_query,
    unless_gone,
)
from captioner.serve.service import Service

Handler = Callable[[Service, Request, HeldBody], Awaitable[list[Any]]]
"""Returns the results of a request whose body has been read."""


async def answer(service: Service, request: Request, handler: Handler) -> Response:
    """Return the results of a handler, unless the deadline passes or the client hangs up.

    Raises:
        ServiceError: what the request lacks, or why it is not accepted now.
        CaptionerError: an option is not valid, or no image can be read.
        ClientGoneError: nobody waits for the answer any more; its work is dropped.
    """
    service.check_ready()
    check_encoding(request)
    deadline = service.config.deadline
    service.batcher.check_room(1, deadline=deadline)  # before the body is read
    with service.metrics.stage("receive"):
        body = await held_body(request, service.budget, service.config)
    try:
        async with asyncio.timeout(deadline):
            results = await unless_gone(request, handler(service, request, body))
    except TimeoutError:
        raise ServiceError(
            504, f"the request took longer than {deadline:g} s: it is dropped"
        ) from None
    except asyncio.CancelledError:
        service.dropped += 1
        raise
    finally:
        body.release()
    return json_response({"results": results})


async def caption_images(service: Service, request: Request, body: HeldBody) -> list[Any]:
    """Return a caption for each image, or the error of one that cannot be read.

    Raises:
        CaptionerError: no image can be read: the error of the first one.
    """
    changes, flags = parse_query(request, ("explain",))
    settings = service.engine.settings(changes)
    check_search(settings, changes, service.config)
    images = _parse(request, body, images=True).images
    check_count(len(images), "images", service.config)
    key = CaptionKey(settings, flags["explain"])
    await service.in_thread(service.engine.check, key)
    with service.batcher.places(len(images), deadline=service.config.deadline) as places:
        pixels = await _read(service, images)
        body.release()
        # a batch does not wait for those that are errors
        places.give_back(sum(isinstance(each, Exception) for each in pixels))
        results = await _gather(
            _failed(each) if isinstance(each, Exception) else _submit(places, key, each)
            for each in pixels
        )
    failed = [each for each in results if isinstance(each, Exception)]
    if len(failed) == len(results):
        raise failed[0]
    return [
        {"image": name, **_values(result)}
        for (name, _), result in zip(images, results, strict=True)
    ]


async def score_captions(service: Service, request: Request, body: HeldBody) -> list[Any]:
    """Return the log-probability of each caption of an image."""
    changes, _ = parse_query(request, ())
    captions = changes.pop("caption", [])
    if changes:
        raise ServiceError(
            400,
            f"unknown option {next(iter(changes))[:40]!r}: scoring takes only caption",
            code="bad_options",
        )
    payload = _parse(request, body, images=True, texts="caption")
    captions = [*captions, *payload.texts.get("caption", [])]
    if len(payload.images) != 1 or not captions:
        raise ServiceError(
            422,
            "scoring takes one image and at least one caption, each in a field caption; this "
            f"request has {len(payload.images)} and {len(captions)}",
        )
    check_texts(captions, "captions", service.config)
    with service.batcher.places(1, deadline=service.config.deadline) as places:
        [pixels] = await _read(service, payload.images)
        body.release()
        if isinstance(pixels, Exception):
            raise pixels
        results: list[Any] = await places.submit(ScoreKey(), (pixels, captions))
    return results


async def translate_texts(service: Service, request: Request, body: HeldBody) -> list[Any]:
    """Return the translation of each text."""
    changes, flags = parse_query(request, ("align",))
    settings = service.engine.settings(changes)
    check_search(settings, changes, service.config)
    texts = _parse(request, body, images=False, texts="text").texts.get("text", [])
    if not texts:
        raise ServiceError(422, "no text: send it as the body, or in a field text")
    check_texts(texts, "texts", service.config)
    key = TranslationKey(settings, flags["align"])
    await service.in_thread(service.engine.check, key)
    with service.batcher.places(len(texts), deadline=service.config.deadline) as places:
        results = await _gather(_submit(places, key, text) for text in texts)
    for result in results:
        if isinstance(result, Exception):
            raise result
    return results


def _parse(request: Request, body: HeldBody, *, images: bool, texts: str | None = None) -> Any:
    content_type = request.headers.get("content-type", "")
    payload = parse_body(body.content, content_type, images=images, texts=texts)
    body.content = b""  # the payload has copies of its parts
    return payload


async def _read(service: Service, images: list[tuple[str | None, bytes]]) -> list[Any]:
    """Return the pixels of each image, or its error. Their contents are dropped from `images`."""
    with service.metrics.stage("read"):
        return await _gather(
            _errors_as_results(service.in_thread(service.engine.prepare, content, name))
            for name, content in images
        )


async def _submit(places: Any, key: Any, item: Any) -> Any:
    return await _errors_as_results(places.submit(key, item))


async def _errors_as_results(work: Awaitable[Any]) -> Any:
    """Return the result of an item, or its error: it does not concern the other items."""
    try:
        return await work
    except (CaptionerError, ServiceError) as error:
        return error


async def _failed(error: Exception) -> Exception:
    return error


async def _gather(work: Any) -> list[Any]:
    """Return the results of coroutines; all are cancelled if one fails, or if this is."""
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(each) for each in work]
    return [task.result() for task in tasks]


def _values(result: Any) -> dict[str, Any]:
    if isinstance(result, Exception):
        return {"error": service_error(result).values}
    values: dict[str, Any] = result
    return values
