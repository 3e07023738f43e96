"""The settings of the service: what it computes at a time, and the limits of what it accepts."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from captioner.config.schema import Count, Positive, Section

ExplainName = Literal["off", "attention", "any"]

MIB = 2**20


class ServiceConfig(Section):
    """The settings of `captioner serve`, which are not stored with a model."""

    workers: Annotated[
        int, Field(ge=1, le=64, description="Batches that are computed at the same time.")
    ] = 1
    max_batch: Annotated[
        int, Field(ge=1, le=4096, description="Largest batch, in images or texts.")
    ] = 16
    max_wait_ms: Annotated[
        float, Field(ge=0, le=10_000, description="Milliseconds that a batch waits for more.")
    ] = 2.0
    max_queue: Annotated[Count, Field(description="Most images or texts in work; then, 429.")] = 256
    max_queue_mb: Annotated[
        Count, Field(description="Most MiB of requests that are held; then, 429.")
    ] = 256
    deadline: Annotated[
        Positive, Field(description="Seconds after which a request is dropped: 504.")
    ] = 30.0
    read_timeout: Annotated[
        Positive, Field(description="Seconds that a client may take to send a request: 408.")
    ] = 30.0
    grace: Annotated[
        Positive, Field(description="Seconds for accepted requests after SIGTERM.")
    ] = 30.0
    max_request_mb: Annotated[
        Count, Field(description="Largest request, in MiB; a larger one: 413.")
    ] = 20
    max_images: Annotated[
        Count, Field(description="Most images, captions or texts of a request.")
    ] = 32
    max_pixels: Annotated[
        Count, Field(description="Most pixels of an image, read from its header.")
    ] = 25_000_000
    max_text: Annotated[
        Count, Field(description="Most characters of a caption to score or a text.")
    ] = 1000
    max_beam: Annotated[
        Count, Field(description="Most beams, captions of an image, and required words.")
    ] = 10
    max_words: Annotated[Count, Field(description="Largest max_length of a request.")] = 100
    explain: Annotated[
        ExplainName,
        Field(description="Heat maps: off, of models with attention, or of any (slow)."),
    ] = "attention"
