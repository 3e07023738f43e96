"""`captioner serve`: a service that captions, scores or translates over HTTP."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from functools import partial
from importlib.util import find_spec
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated

import typer

from captioner.cli.options import ModelsOption, with_options
from captioner.config.schema import InferenceConfig
from captioner.config.service import ServiceConfig
from captioner.console import console, one_line
from captioner.errors import CaptionerError, MissingPackageError, UsageError

EXAMPLE = "captioner serve --model runs/first/best --port 8000"
TOKEN = "CAPTIONER_TOKEN"
ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://[a-z0-9._:\[\]-]+")  # as browsers send it

_PACKAGES = {
    "fastapi": "fastapi",
    "uvicorn": "uvicorn",
    "python_multipart": "python-multipart",
    "prometheus_client": "prometheus-client",
}


@partial(with_options, without=("batch_size",))
def serve(
    inference: InferenceConfig,
    service: ServiceConfig,
    model: ModelsOption = None,
    host: Annotated[
        str, typer.Option(help="Address to bind to; 0.0.0.0 binds to all network interfaces.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: any that is free.")] = 8000,
    token_file: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help=f"File of the token that clients must send; or set {TOKEN}.",
            show_default=False,
        ),
    ] = None,
    cors_origin: Annotated[
        list[str] | None,
        typer.Option(
            metavar="ORIGIN",
            help="Origin whose pages may use the service, as https://example.org; repeat it.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Serve captions or translations over HTTP.

    POST /v1/caption takes images, /v1/score also captions, /v1/translate texts. /docs describes
    all routes. SIGTERM ends the service when what it has accepted is answered.
    """
    missing = [package for module, package in _PACKAGES.items() if find_spec(module) is None]
    if missing:
        raise MissingPackageError(
            f"captioner serve needs {', '.join(missing)}: pip install {' '.join(missing)}"
        )
    _check_origins(cors_origin or ())
    token = _read_token(token_file)
    from captioner.serve.app import build_app
    from captioner.serve.engine import Engine
    from captioner.serve.lifecycle import open_socket, run

    engine = Engine(model or [], inference, service)
    app = build_app(engine, service, token=token, cors_origins=cors_origin or ())
    bound = open_socket(host, port)
    if token is None and not ip_address(bound.getsockname()[0]).is_loopback:
        console.print(
            f"captioner: whoever reaches {host} may use the service: --token-file asks for a token",
            markup=False,
        )
    run(
        app,
        bound,
        read_timeout=service.read_timeout,
        grace=service.grace,
    )


def _check_origins(origins: Sequence[str]) -> None:
    """Raise an error for an origin that no browser sends, so that it would never match.

    Raises:
        UsageError: it is not `*`, and not a scheme and a host in lower case, without a path.
    """
    for origin in origins:
        if origin != "*" and not ORIGIN.fullmatch(origin):
            raise UsageError(
                f"--cors-origin {one_line(origin)[:80]}: give a scheme and a host in lower case, "
                "without a path, as https://example.org, or *"
            )


def _read_token(file: Path | None) -> str | None:
    """Return the token of a file, or of the environment.

    Raises:
        CaptionerError: the file cannot be read.
        UsageError: it is empty, or is not printable ASCII, which no header holds.
    """
    if file is None:
        token, source = os.environ.get(TOKEN), TOKEN
        if token is None:
            return None
    else:
        source = str(file)
        try:
            token = file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "is not UTF-8"
            raise CaptionerError(
                f"{file} cannot be read ({reason.lower()}): name the file of the token"
            ) from None
    token = token.strip()
    if not token or not token.isascii() or not token.isprintable() or " " in token:
        raise UsageError(
            f"{source} holds no token: it needs one line of printable ASCII without spaces"
        )
    return token
