"""The page at `/`: the one that the export ships (web/), whose engine asks this service."""

from __future__ import annotations

import hashlib
import json
from importlib.resources import files

from fastapi import FastAPI, Request
from starlette.responses import Response

from captioner.models.folder import read_config
from captioner.serve.service import Service

HEADERS = {
    # Scripts, styles and requests of this server alone; pictures and downloads are blobs.
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
        "img-src 'self' blob:; media-src 'self' blob:; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'"
    ),
    "Permissions-Policy": "camera=(self), microphone=(), geolocation=()",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    # Asked for again each time, so that no file of another version is used.
    "Cache-Control": "no-cache",
}
_INDEX = "index.html"
_TYPES = {  # not those of the system, which may lack some
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".json": "application/json",
    ".svg": "image/svg+xml",
}


def add_page(app: FastAPI, service: Service) -> None:
    """Add a route for each file of the page, and for `site.json`, which says how it captions."""
    for name, content in _contents(service).items():
        _add_file(app, "/" if name == _INDEX else f"/{name}", content, _TYPES[_suffix(name)])


def _contents(service: Service) -> dict[str, bytes]:
    folder = files("captioner") / "web"
    contents = {
        file.name: file.read_bytes() for file in folder.iterdir() if _suffix(file.name) in _TYPES
    }
    transform = read_config(service.engine.folders[0])["encoder"].get("transform")
    site = {"engine": "http", "cropped": transform == "crop", "examples": []}
    return contents | {"site.json": json.dumps(site).encode()}


def _suffix(name: str) -> str:
    return "." + name.rpartition(".")[2]


def _add_file(app: FastAPI, path: str, content: bytes, media_type: str) -> None:
    tag = f'"{hashlib.sha256(content).hexdigest()[:32]}"'
    headers = {**HEADERS, "ETag": tag}

    @app.api_route(path, methods=["GET", "HEAD"], include_in_schema=False)
    async def send(request: Request) -> Response:
        stored = request.headers.get("if-none-match", "").replace("W/", "").split(",")
        if tag in map(str.strip, stored):
            return Response(status_code=304, headers=headers)
        return Response(content, headers=headers, media_type=media_type)
