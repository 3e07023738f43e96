"""The routes of the service."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from fastapi import FastAPI, Request
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import HTMLResponse, RedirectResponse, Response

import captioner
from captioner.config.service import ServiceConfig
from captioner.errors import CaptionerError
from captioner.serve import schemas
from captioner.serve.engine import Engine
from captioner.serve.errors import ServiceError, json_response, service_error
from captioner.serve.handlers import answer, caption_images, score_captions, translate_texts
from captioner.serve.limits import ClientGoneError
from captioner.serve.middleware import AccessLog, BearerToken, Drain
from captioner.serve.page import add_page
from captioner.serve.service import Service

ROUTES = ("/v1/caption", "/v1/score", "/v1/translate")
CLIENT_GONE = 499  # for the log only: nobody reads the answer

log = logging.getLogger("captioner.serve")


def build_app(
    engine: Engine,
    config: ServiceConfig,
    *,
    token: str | None = None,
    cors_origins: Sequence[str] = (),
) -> FastAPI:
    """Return the service as an ASGI application; `app.state.service` is its state.

    Args:
        engine: the model, which is loaded when the application starts.
        config: limits.
        token: what clients must send; None: nothing.
        cors_origins: origins whose pages may use the service, or `*`.
    """
    service = Service(engine, config)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        service.batcher.start()
        loading = asyncio.create_task(service.load())
        yield
        loading.cancel()
        await service.batcher.stop()
        service.readers.shutdown(wait=False, cancel_futures=True)

    app = FastAPI(
        title="captioner",
        version=captioner.__version__,
        description=schemas.DESCRIPTION,
        lifespan=lifespan,
        docs_url=None,  # FastAPI's pages load scripts from another host
        redoc_url=None,
        openapi_url="/openapi.json",
        swagger_ui_oauth2_redirect_url=None,
        redirect_slashes=False,  # a redirect would repeat the host that a client has made up
    )
    app.state.service = service
    _add_routes(app, service)
    _add_error_handlers(app, service)
    # The last one that is added is the outermost.
    if token is not None:
        app.add_middleware(BearerToken, token=token)
    if cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(cors_origins),
            allow_methods=["GET", "POST"],
            allow_headers=["Authorization", "Content-Type"],
        )
    app.add_middleware(Drain, seconds=config.read_timeout)
    app.add_middleware(AccessLog, metrics=service.metrics)
    return app


def _add_routes(app: FastAPI, service: Service) -> None:
    """Add the routes; those that the model cannot serve are missing."""

    # Many probes ask for the headers alone.
    @app.head("/health", include_in_schema=False)
    @app.get("/health", openapi_extra=schemas.HEALTH)
    async def health() -> Response:
        """Say that the process is alive."""
        return json_response({"status": "alive"})

    @app.head("/ready", include_in_schema=False)
    @app.get("/ready", openapi_extra=schemas.READY)
    async def ready() -> Response:
        """Say whether the model is loaded and requests are taken; 503 if not."""
        service.check_ready()
        return json_response({"status": "ready"})

    @app.get("/metrics", openapi_extra=schemas.METRICS)
    async def metrics() -> Response:
        """Return what the service measures of itself, for Prometheus."""
        return Response(service.metrics.text(), media_type="text/plain; version=0.0.4")

    @app.get("/v1/model", openapi_extra=schemas.MODEL)
    async def model() -> Response:
        """Describe the model: its words, its decoding defaults, its card with data and licence."""
        service.check_ready()
        return json_response(service.engine.describe())

    if service.engine.reads == "image":

        @app.post("/v1/caption", openapi_extra=schemas.caption(service.config))
        async def caption(request: Request) -> Response:
            """Caption images."""
            return await answer(service, request, caption_images)

        @app.post("/v1/score", openapi_extra=schemas.score())
        async def score(request: Request) -> Response:
            """Return the log-probabilities of given captions of an image."""
            return await answer(service, request, score_captions)

    else:

        @app.post("/v1/translate", openapi_extra=schemas.translate(service.config))
        async def translate(request: Request) -> Response:
            """Translate texts."""
            return await answer(service, request, translate_texts)

    @app.get("/docs", include_in_schema=False)
    async def docs(request: Request) -> Response:
        text = schemas.page(app.openapi(), host=request.headers.get("host", ""))
        return HTMLResponse(text, headers=schemas.PAGE_HEADERS)

    if service.engine.reads == "image":
        add_page(app, service)
    else:

        @app.get("/", include_in_schema=False)
        async def start() -> Response:
            return RedirectResponse("docs")


def _add_error_handlers(app: FastAPI, service: Service) -> None:
    def respond(error: Exception) -> Response:
        described = service_error(error)
        service.metrics.rejections.labels(described.code).inc()
        if described.status == 500:
            if isinstance(error, CaptionerError):  # one for users, whose message says it all
                log.error("the service has failed: %s", " ".join(str(error).split()))
            else:
                log.error("the service has failed", exc_info=error)
        return described.response()

    @app.exception_handler(HTTPException)  # of an unknown path or method
    async def of_routing(request: Request, error: HTTPException) -> Response:
        path, message = request.url.path[:100], str(error.detail)
        match error.status_code:
            case 404 if path in ROUTES:
                other = "texts" if service.engine.reads == "text" else "images"
                message = f"no route {path}: the model of this service reads {other}; see /docs"
            case 404:
                message = f"no route {path}: see /docs"
            case 405:
                allowed = dict(error.headers or {}).get("Allow", "")
                message = f"{path} takes {allowed}, and this request is {request.method[:20]}"
            case _:
                return respond(ServiceError(400, message))
        return respond(ServiceError(error.status_code, message, headers=error.headers))

    @app.exception_handler(ClientGoneError)
    async def of_client(_: Request, __: Exception) -> Response:
        return Response(status_code=CLIENT_GONE)

    for kind in (ServiceError, CaptionerError, Exception):

        @app.exception_handler(kind)
        async def of_all(_: Request, error: Exception) -> Response:
            return respond(error)
