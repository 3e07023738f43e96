"""A service in this process, and its clients."""

import asyncio
import threading
from concurrent.futures import Future

import httpx
import pytest

from captioner.config.schema import InferenceConfig
from captioner.config.service import ServiceConfig
from captioner.serve.app import build_app
from captioner.serve.engine import Engine


class Running:
    """A service in an event loop of its own thread. `get` and `post` wait for the answer."""

    def __init__(self, engine, config, *, ready=True, **options):
        self.app = build_app(engine, config, **options)
        self.state = self.app.state.service
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._lifespan = self.app.router.lifespan_context(self.app)
        loaded = threading.Event()
        self.state.on_ready = self.state.on_load_failure = loaded.set
        self.call(self._lifespan.__aenter__()).result(10)
        if ready:
            assert loaded.wait(60)
            if self.state.failure:
                raise self.state.failure
        transport = httpx.ASGITransport(self.app, raise_app_exceptions=False)
        self._client = httpx.AsyncClient(transport=transport, base_url="http://test", timeout=60)

    def call(self, work) -> Future:
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    def start(self, method, path, **options) -> Future:
        return self.call(self._client.request(method, path, **options))

    def get(self, path, **options):
        return self.start("GET", path, **options).result(60)

    def post(self, path, **options):
        return self.start("POST", path, **options).result(60)

    def close(self):
        self.call(self._client.aclose()).result(10)
        self.call(self._lifespan.__aexit__(None, None, None)).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()


@pytest.fixture(scope="session")
def start_service():
    """Return a function that starts a service: a model folder, settings, options of the app."""
    running = []

    def start(model, *, engine=Engine, ready=True, backend="auto", token=None, cors=(), **settings):
        config = ServiceConfig(**settings)
        inference = InferenceConfig(device="cpu", backend=backend)
        service = Running(
            engine([model], inference, config),
            config,
            ready=ready,
            token=token,
            cors_origins=cors,
        )
        running.append(service)
        return service

    yield start
    for service in running:
        service.close()


@pytest.fixture(scope="session")
def service(start_service, onnx_model):
    """A service with the tiny model, and small limits."""
    return start_service(onnx_model, max_request_mb=1, max_images=4, max_pixels=100_000)


@pytest.fixture(scope="session")
def translation_service(start_service, tiny_translator):
    """A service with a model of text."""
    return start_service(tiny_translator, max_text=50)


@pytest.fixture
def errors():
    """Return a function that checks the form of an error, and returns its status and its code."""

    def check(response):
        error = response.json()["error"]
        assert set(response.json()) == {"error"}
        assert set(error) == {"code", "message"}
        assert "\n" not in error["message"]
        assert "Traceback" not in response.text
        return response.status_code, error["code"]

    return check
