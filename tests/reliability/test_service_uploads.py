"""Uploads that are too large, no images, or too slow; and URLs, which are never fetched."""

import asyncio
import shutil
import socket
import subprocess
import time

import httpx
import pytest
from services import ServiceProcess, post_request, run_async

from captioner.config.service import MIB

pytestmark = pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="reads /proc")


@pytest.fixture(scope="module")
def service(onnx_model):
    limits = ["--max-request-mb", 5, "--max-queue-mb", 64, "--read-timeout", 2]
    with ServiceProcess(onnx_model, *limits) as service:
        yield service.wait_until()


def chunks(size):
    for _ in range(size // 65536):
        yield b"x" * 65536


@pytest.mark.row(26)
@pytest.mark.parametrize("chunked", [False, True])
def test_an_upload_that_is_too_large_is_413_which_httpx_can_read(service, chunked):
    content = chunks(8 * MIB) if chunked else b"x" * (8 * MIB)
    response = httpx.post(f"{service.url}/v1/caption", content=content, timeout=30)
    assert response.status_code == 413
    assert response.json()["error"]["code"] == "too_large"


@pytest.mark.row(26)
@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("expects", [False, True])
def test_an_upload_that_is_too_large_is_413_which_curl_can_read(
    service, tmp_path, chunked, expects
):
    file = tmp_path / "large"
    file.write_bytes(b"x" * (8 * MIB))
    headers = [] if expects else ["-H", "Expect:"]
    headers += ["-H", "Transfer-Encoding: chunked"] if chunked else []
    command = ["curl", "-sS", "-w", "%{http_code}", *headers, "--data-binary", f"@{file}"]
    done = subprocess.run([*command, f"{service.url}/v1/caption"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("413")
    assert "too_large" in done.stdout


@pytest.mark.row(26)
def test_memory_is_flat_while_too_large_uploads_are_refused(service):
    before = service.rss()

    async def post(client):
        response = await client.post("/v1/caption", content=b"x" * (8 * MIB))
        return response.status_code

    async def flood():
        async with httpx.AsyncClient(base_url=service.url, timeout=60) as client:
            return await asyncio.gather(*(post(client) for _ in range(30)))

    assert set(run_async(flood())) == {413}
    assert service.rss() - before < 40
    assert service.metric("captioner_request_bytes") == 0


@pytest.mark.row(26)
def test_what_all_uploads_hold_together_is_bounded(service):
    held = []
    for _ in range(16):  # of 4.9 MiB each, of which 64 MiB fit
        connection = service.connect()
        connection.sendall(post_request(b"")[:-2].replace(b": 0", b": 5200000") + b"\r\n")
        connection.sendall(b"x" * 5_100_000)
        held.append(connection)
    refused = 0
    for connection in held:
        connection.settimeout(10)
        refused += connection.recv(100).startswith(b"HTTP/1.1 429")
        connection.close()
    assert refused >= 3
    assert service.metric("captioner_request_bytes") == 0


@pytest.mark.row(26)
@pytest.mark.parametrize(
    ("content", "status"), [(b"garbage", 415), (b"\xff\xd8\xff\xe0garbage", 422), (b"GIF89a", 422)]
)
def test_what_is_no_image_is_named(service, content, status):
    files = {"file": ("photo.jpg", content, "image/jpeg")}
    response = httpx.post(f"{service.url}/v1/caption", files=files)
    assert response.status_code == status
    assert response.json()["error"]["message"].startswith("photo.jpg: ")


@pytest.mark.row(26)
def test_a_client_that_sends_its_headers_slowly_is_closed(service):
    connection = service.connect()
    begun = time.monotonic()
    connection.settimeout(0.2)
    closed = False
    for byte in b"POST /v1/caption HTTP/1.1\r\n" + b"X-Slow: 1\r\n" * 100:
        try:
            connection.send(bytes([byte]))
            closed = connection.recv(1) == b""
        except TimeoutError:
            continue
        except OSError:
            closed = True
        if closed:
            break
    assert closed
    assert 1 < time.monotonic() - begun < 6


@pytest.mark.row(26)
def test_a_client_that_sends_nothing_after_its_first_request_is_closed(service):
    connection = service.connect()
    connection.sendall(b"GET /health HTTP/1.1\r\nHost: a\r\n\r\n")
    assert connection.recv(1000).startswith(b"HTTP/1.1 200")
    connection.sendall(b"GET /health HT")
    connection.settimeout(10)
    begun = time.monotonic()
    while connection.recv(1000):
        pass
    assert time.monotonic() - begun < 6


@pytest.mark.row(26)
def test_a_client_that_sends_its_body_slowly_is_timed_out(service):
    connection = service.connect()
    connection.sendall(post_request(b"x" * 100)[:-50])
    begun = time.monotonic()
    connection.settimeout(30)
    assert connection.recv(1000).startswith(b"HTTP/1.1 408")
    assert 1 < time.monotonic() - begun < 6
    assert service.metric("captioner_request_bytes") == 0


@pytest.mark.row(28)
def test_no_url_is_fetched(service, photo):
    with socket.create_server(("127.0.0.1", 0)) as canary:
        canary.settimeout(0.5)
        url = f"http://127.0.0.1:{canary.getsockname()[1]}/photo.jpg"
        files = {"file": ("photo.jpg", photo.read_bytes())}
        for status, options in (
            (422, {"json": {"url": url}}),
            (422, {"json": {"file": url}}),
            (422, {"json": {"file": {"data": "", "url": url}}}),
            (422, {"data": {"url": url}, "files": files}),
            (422, {"params": {"url": url}, "files": files}),
            (415, {"content": url.encode()}),
            (415, {"files": {"file": (url, url.encode())}}),
        ):
            assert httpx.post(f"{service.url}/v1/caption", **options).status_code == status
        with pytest.raises(TimeoutError):
            canary.accept()
