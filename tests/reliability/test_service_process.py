"""What the process of the service does with its log, its open files and its end."""

import io
import json
import resource
import signal
import struct
import time

import httpx
import pytest
from PIL import Image
from services import ServiceProcess, post_request

pytestmark = pytest.mark.slow


def odd_exif():
    """A JPEG whose Exif data says that it has four billion numbers, of which Pillow warns."""
    entry = struct.pack("<HHII", 0x112, 4, 0xFFFFFFFF, 8)
    exif = b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<H", 1) + entry + struct.pack("<I", 8)
    file = io.BytesIO()
    Image.new("RGB", (16, 16)).save(file, "JPEG")
    jpeg = file.getvalue()
    return jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + jpeg[2:]


def other_lines(service):
    """The lines of the log that are no JSON, without the one that says the address."""
    lines = service.stderr.splitlines()
    return [line for line in lines if not line.startswith(("{", "captioner: ready"))]


@pytest.mark.row(26)
def test_no_client_writes_lines_of_its_own_into_the_log(onnx_model):
    with ServiceProcess(onnx_model) as service:
        service.wait_until()
        answer = httpx.post(f"{service.url}/v1/caption", content=odd_exif())
        assert answer.status_code == 200
        httpx.get(f"{service.url}/%0a%7b%22time%22:1%7d%0acaptioner:%20forged")
        service.connect().sendall(b"no HTTP\r\n\r\n")
        time.sleep(0.3)
        paths = [json.loads(line)["path"] for line in service.lines if line.startswith("{")]
        assert paths[-1] == '/\n{"time":1}\ncaptioner: forged'
        assert other_lines(service) == []


@pytest.mark.row(27)
def test_more_connections_than_open_files_wait_without_filling_the_log(onnx_model):
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (128, before[1]))
    try:
        service = ServiceProcess(onnx_model, "--read-timeout", 3)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    with service:
        service.wait_until()
        silent = [service.connect() for _ in range(300)]
        time.sleep(2)
        assert len(service.lines) < 20
        # silent connections are closed, and those that wait are accepted
        assert httpx.get(f"{service.url}/health", timeout=30).status_code == 200
        [line] = other_lines(service)
        assert line.startswith("captioner: no connection is accepted while so many are open")
        assert len(silent) == 300


@pytest.mark.row(27)
def test_a_request_that_never_arrives_is_no_traceback_when_the_service_ends(onnx_model, photo):
    with ServiceProcess(onnx_model, "--grace", 1) as service:
        service.wait_until()
        connection = service.connect()
        connection.sendall(post_request(photo.read_bytes())[:200])
        time.sleep(0.3)
        service.process.send_signal(signal.SIGTERM)
        assert service.process.wait(10) == 0  # it was not accepted yet
        connection.close()
        time.sleep(0.3)
        assert "Traceback" not in service.stderr
