"""Errors of the service: a status, a code for programs, and the library's words for people."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping

from starlette.responses import Response

from captioner.errors import CaptionerError, ImageError, MissingPackageError, UsageError

CODES = {
    400: "bad_request",
    401: "unauthorized",
    404: "not_found",
    405: "method_not_allowed",
    408: "timeout",
    413: "too_large",
    415: "not_an_image",
    422: "unprocessable",
    429: "queue_full",
    500: "internal",
    503: "not_ready",
    504: "deadline",
}
"""The code of each status, unless an error has a more special one."""


MAX_MESSAGE = 1000  # characters of an error that lists what is not valid
MAX_NAME = 100  # characters of the name of an image in its error


class ServiceError(Exception):
    """An answer other than 200."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.code = status, code or CODES[status]
        self.headers = dict(headers or {})

    @classmethod
    def busy(cls, message: str, *, seconds: float, status: int = 429) -> ServiceError:
        """Return the error of a service that asks to be tried again after some seconds."""
        return cls(status, message, headers={"Retry-After": str(max(1, math.ceil(seconds)))})

    @property
    def values(self) -> dict[str, str]:
        """The error as JSON values."""
        return {"code": self.code, "message": str(self)}

    def response(self) -> Response:
        """Return the answer."""
        return json_response({"error": self.values}, status=self.status, headers=self.headers)


def service_error(error: BaseException) -> ServiceError:
    """Return the answer to an error of the library; one that is not meant for users is a 500."""
    message = _one_line(error)
    match error:
        case ServiceError():
            return error
        case ImageError(reason=reason):
            status, code = _of_image(reason)
            name = " ".join(error.name.split())[:MAX_NAME]
            return ServiceError(status, f"{name}: {reason}", code=code)
        case MissingPackageError():
            return ServiceError(400, message, code="bad_options")
        case UsageError():
            return ServiceError(400, message, code="bad_options")
        case CaptionerError():
            return ServiceError(500, "the model cannot do this: see the log of the service")
    return ServiceError(500, "the service has failed: see its log")


def _one_line(error: BaseException) -> str:
    """Return a message; one that lists several mistakes has a line for each of them."""
    first, *others = [" ".join(line.split()) for line in str(error).splitlines()] or [""]
    text = " ".join([first, "; ".join(others)]).strip()
    return text if len(text) <= MAX_MESSAGE else f"{text[:MAX_MESSAGE]}..."


def _of_image(reason: str) -> tuple[int, str]:
    """Return the status and the code of an image that cannot be read, from the library's words."""
    if reason.startswith("not an image"):
        return 415, "not_an_image"
    if reason.startswith("too large"):
        return 413, "too_many_pixels"
    return 422, "broken_image"


def json_response(
    values: object, *, status: int = 200, headers: Mapping[str, str] | None = None
) -> Response:
    """Return JSON in ASCII, as the command line prints it; every string has such a form."""
    return Response(
        json.dumps(values, allow_nan=False),
        status_code=status,
        headers={"X-Content-Type-Options": "nosniff", **(headers or {})},
        media_type="application/json",
    )
