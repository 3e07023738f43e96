"""The service while it is loading, full, ending, or after its deadline; hang-ups; failures."""

import asyncio
import threading

import pytest

from captioner.errors import CaptionerError
from captioner.serve.engine import Engine


class HeldEngine(Engine):
    """An engine that computes only when `gate` is set, and that can fail."""

    gate = threading.Event()
    error = None

    def compute(self, key, items):
        assert self.gate.wait(20)
        if self.error:
            raise self.error
        return super().compute(key, items)


@pytest.fixture
def held(start_service, onnx_model):
    """Return a function that starts a service whose model waits for the gate."""
    kind = type("Held", (HeldEngine,), {"gate": threading.Event()})

    def start(**settings):
        return start_service(onnx_model, engine=kind, **settings), kind

    yield start
    kind.gate.set()


def test_a_full_queue_is_429_before_the_body_is_read(held, photo, errors):
    service, kind = held(max_queue=2)
    waiting = [service.start("POST", "/v1/caption", content=photo.read_bytes()) for _ in range(2)]
    while service.state.batcher._reserved < 2:
        pass
    response = service.post("/v1/caption", content=b"{")  # 400 where it is read
    assert errors(response) == (429, "queue_full")
    assert int(response.headers["retry-after"]) >= 1
    kind.gate.set()
    assert [each.result(20).status_code for each in waiting] == [200, 200]
    assert service.post("/v1/caption", content=photo.read_bytes()).status_code == 200


def test_the_bytes_of_images_that_are_read_are_not_held_while_they_wait(held, photo):
    service, _ = held(max_batch=1, workers=1)
    content = photo.read_bytes()
    waiting = [service.start("POST", "/v1/caption", content=content) for _ in range(2)]
    batcher = service.state.batcher
    while batcher._computing + batcher._num_waiting() < 2:
        pass
    assert service.state.budget.held == 0
    assert not any(each.done() for each in waiting)


def test_a_request_with_more_images_than_places_is_429(held, photo, errors):
    service, kind = held(max_queue=2)
    kind.gate.set()
    files = [("file", ("a", photo.read_bytes()))] * 3
    assert errors(service.post("/v1/caption", files=files)) == (429, "queue_full")


def test_a_batch_does_not_wait_for_an_image_that_cannot_be_read(start_service, onnx_model, photo):
    service = start_service(onnx_model, max_wait_ms=5000, deadline=4)
    files = [("file", ("a", content)) for content in (photo.read_bytes(), b"x")]
    response = service.post("/v1/caption", files=files)
    assert response.status_code == 200  # not 504
    assert ["error" in each for each in response.json()["results"]] == [False, True]


def test_a_request_past_its_deadline_is_504_and_leaves_its_place(held, photo, errors):
    service, kind = held(deadline=0.2)
    assert errors(service.post("/v1/caption", content=photo.read_bytes())) == (504, "deadline")
    kind.gate.set()
    assert service.state.batcher._reserved == 0
    assert service.state.budget.held == 0


def test_a_service_that_loads_or_ends_is_503(start_service, onnx_model, photo, errors):
    release = threading.Event()

    class Loading(Engine):
        def load(self):
            assert release.wait(20)
            super().load()

    service = start_service(onnx_model, engine=Loading, ready=False)
    loaded = threading.Event()
    service.state.on_ready = loaded.set
    content = photo.read_bytes()
    assert service.get("/health").status_code == 200
    for response in (service.get("/ready"), service.post("/v1/caption", content=content)):
        assert errors(response) == (503, "not_ready")
        assert int(response.headers["retry-after"]) >= 1
    release.set()
    assert loaded.wait(20)
    assert service.get("/ready").status_code == 200
    service.state.draining = True
    for response in (service.get("/ready"), service.post("/v1/caption", content=content)):
        assert errors(response) == (503, "not_ready")
    assert service.get("/health").status_code == 200


def test_a_model_that_fails_to_load_is_told(start_service, onnx_model):
    class Failing(Engine):
        def load(self):
            raise CaptionerError("no such model")

    with pytest.raises(CaptionerError, match="no such model"):
        start_service(onnx_model, engine=Failing)


@pytest.mark.parametrize("error", [RuntimeError("secret"), CaptionerError("/secret/path")])
def test_a_failure_of_the_model_is_500_without_its_details(held, photo, errors, error):
    service, kind = held()
    kind.error = error
    kind.gate.set()
    response = service.post("/v1/caption", content=photo.read_bytes())
    assert errors(response) == (500, "internal")
    assert "secret" not in response.text


def test_a_batch_has_the_images_of_several_requests_with_the_same_options(
    start_service, onnx_model, photo
):
    batches = []

    class Noting(HeldEngine):
        gate = threading.Event()

        def compute(self, key, items):
            batches.append((key.settings.beam, len(items)))
            return super().compute(key, items)

    service = start_service(onnx_model, engine=Noting, workers=1)
    content = photo.read_bytes()
    first = service.start("POST", "/v1/caption?beam=1", content=content)
    while not batches:
        pass
    others = [
        service.start("POST", f"/v1/caption?beam={beam}", content=content)
        for beam in (2, 3, 2, 3, 2)
    ]

    async def all_wait():
        while service.state.batcher._num_waiting() < 5:
            await asyncio.sleep(0.01)

    service.call(all_wait()).result(20)
    Noting.gate.set()
    assert {each.result(20).status_code for each in (first, *others)} == {200}
    assert batches[0] == (1, 1)
    assert sorted(batches[1:]) == [(2, 3), (3, 2)]
