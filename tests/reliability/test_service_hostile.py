"""Hostile names and malformed requests: 4xx or text, never a traceback."""

import base64
import io
import json
import os
import random
import socket
import struct
import zlib

import httpx
import pytest
from PIL import Image
from services import ServiceProcess

HOSTILE = '<img src=x onerror="alert(1)">.jpg'
REQUESTS = int(os.environ.get("CAPTIONER_FUZZ", "2000"))


@pytest.fixture(scope="module")
def service(onnx_model):
    limits = ["--max-request-mb", 1, "--max-pixels", 1_000_000, "--read-timeout", 5]
    with ServiceProcess(onnx_model, *limits) as service:
        yield service.wait_until()


@pytest.mark.row(29)
def test_a_hostile_name_is_text_in_json_which_no_browser_shows_as_a_page(service, photo):
    for content, status in ((photo.read_bytes(), 200), (b"x", 415)):
        files = {"file": (HOSTILE, content)}
        response = httpx.post(f"{service.url}/v1/caption", files=files)
        assert response.status_code == status
        assert response.headers["content-type"] == "application/json"
        assert response.headers["x-content-type-options"] == "nosniff"
        assert "img src=x onerror" in response.text.replace("%22", "")


@pytest.mark.row(29)
def test_the_page_of_the_routes_allows_no_script_and_no_other_host(service):
    response = httpx.get(f"{service.url}/docs")
    assert "default-src 'none'" in response.headers["content-security-policy"]
    assert "<script" not in response.text
    assert "src=" not in response.text


INFLATES = zlib.compress(bytes(80_000_000), 9)


def bomb(rng):
    """A PNG whose pixels or whose text are far larger than the file."""
    if rng.random() < 0.5:
        width, height = rng.choice([(50_000, 50_000), (2**31 - 1, 1), (1001, 1000)])
        header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
        chunk = struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))
        data = b"IDAT" + zlib.compress(bytes(500_000))
        chunk += struct.pack(">I", len(data) - 4) + data + struct.pack(">I", zlib.crc32(data))
        return b"\x89PNG\r\n\x1a\n" + chunk
    file = io.BytesIO()
    Image.new("RGB", (8, 8)).save(file, "PNG")
    text = b"zTXtbomb\0\0" + INFLATES
    chunk = struct.pack(">I", len(text) - 4) + text + struct.pack(">I", zlib.crc32(text))
    return file.getvalue()[:33] + chunk + file.getvalue()[33:]


def noise(rng):
    head = rng.choice([b"", b"\xff\xd8\xff\xe0", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"{", b"BM"])
    return head + rng.randbytes(rng.randrange(2000))


def value(rng, depth=0):
    """A JSON text of any kind."""
    digits = "9" * rng.randrange(1, 6000)
    simple = [digits, f"-{digits}.5", "1e9999", "NaN", "null", "true", '"\\ud800"', '""', '"/etc"']
    if depth > 3 or rng.random() < 0.5:
        return rng.choice(simple)
    if rng.random() < 0.5:
        return "[" + ",".join(value(rng, depth + 1) for _ in range(rng.randrange(3))) + "]"
    names = ["file", "url", "caption", "name", "data", "__proto__", "../../etc/passwd"]
    items = (f'"{rng.choice(names)}": {value(rng, depth + 1)}' for _ in range(rng.randrange(4)))
    return "{" + ",".join(items) + "}"


def json_body(rng):
    text = rng.choice(
        [value(rng), "[" * rng.randrange(200_000), '{"file": [' + value(rng) + "]}", "{"]
    )
    return text.encode("utf-8", "surrogatepass")


def form(rng):
    """A multipart body whose parts are of any kind, and possibly cut off."""
    parts = b""
    for _ in range(rng.randrange(1, 4)):
        name = rng.choice(["file", "file", "url", "caption", "", "\0", "x" * 3000])
        path = rng.choice(["../../etc/passwd", "C:\\a", "/dev/zero", HOSTILE, "a\0b", "é", "%00"])
        disposition = rng.choice(
            [f'form-data; name="{name}"; filename="{path}"', f"form-data; name={name}", "x"]
        )
        content = rng.choice([noise, bomb])(rng) if rng.random() < 0.3 else noise(rng)
        parts += b"--b\r\nContent-Disposition: " + disposition.encode() + b"\r\n\r\n"
        parts += content + b"\r\n"
    parts += b"--b--\r\n"
    return parts[: rng.randrange(len(parts))] if rng.random() < 0.2 else parts


OPTIONS = [
    ("beam", "9" * 400),
    ("beam", "-1"),
    ("beam", "1e3"),
    ("seed", "x"),
    ("temperature", "NaN"),
    ("top_p", "1e999"),
    ("prefix", "\0<b>"),
    ("require", "../../x"),
    ("__class__", "1"),
    ("url", "http://127.0.0.1"),
    ("explain", "2"),
    ("captions", "1000000"),
]


def malformed(rng):
    """Options of a request that nobody may answer with 200."""
    kind = rng.choice(["raw", "json", "form", "options", "bomb", "base64"])
    path = rng.choice(["/v1/caption", "/v1/caption", "/v1/score?caption=a"])
    content_type = rng.choice(["", "image/png", "application/json", "text/plain; charset=x"])
    headers = {"content-type": content_type}
    if kind == "json":
        return path, {"content": json_body(rng), "headers": {"content-type": "application/json"}}
    if kind == "form":
        headers = {"content-type": rng.choice(["multipart/form-data; boundary=b"] * 3 + ["form"])}
        return path, {"content": form(rng), "headers": headers}
    if kind == "options":
        return "/v1/caption", {"params": [rng.choice(OPTIONS)], "content": PHOTO}
    if kind == "base64":
        data = base64.b64encode(rng.choice([noise, bomb])(rng)).decode()
        item = rng.choice([data, data[:-1], [data], {"data": data, "name": "../x"}, {"data": 1}])
        return path, {"content": json.dumps({"file": item}).encode()}
    return path, {"content": (bomb if kind == "bomb" else noise)(rng), "headers": headers}


def _photo():
    file = io.BytesIO()
    Image.new("RGB", (8, 8)).save(file, "PNG")
    return file.getvalue()


PHOTO = _photo()


def fuzz(service, count):
    rng = random.Random(17)
    statuses = []
    with httpx.Client(base_url=service.url, timeout=30) as client:
        for number in range(count):
            path, options = malformed(rng)
            response = client.post(path, **options)
            statuses.append(response.status_code)
            shown = (number, path, str(options)[:300], response.status_code, response.text[:300])
            assert 400 <= response.status_code < 500, shown
            assert "Traceback" not in response.text, shown
            assert set(response.json()["error"]) == {"code", "message"}, shown
        assert client.get("/ready").status_code == 200
    assert "Traceback" not in service.stderr
    return statuses


@pytest.mark.row(26)
def test_malformed_requests_are_4xx(service):
    assert len(set(fuzz(service, 100))) >= 4


@pytest.mark.row(26)
@pytest.mark.slow
def test_thousands_of_malformed_requests_are_4xx(service):
    fuzz(service, 200)  # among them, options that need torch, which takes 500 MB
    before = service.rss()
    statuses = fuzz(service, REQUESTS)
    counts = {status: statuses.count(status) for status in sorted(set(statuses))}
    print(f"{len(statuses)} requests: {counts}, {before:.0f} MB before, {service.rss():.0f} after")
    assert service.rss() - before < 60


@pytest.mark.row(26)
def test_bytes_that_are_no_http_are_400_or_closed(service):
    rng = random.Random(17)
    starts = [b"", b"POST /v1/caption HTTP/1.1\r\n", b"\x16\x03\x01"]
    starts += [b"POST /v1/caption HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n"]
    for _ in range(50):
        with service.connect() as connection:
            connection.sendall(rng.choice(starts) + rng.randbytes(200) + b"\r\n\r\n")
            connection.shutdown(socket.SHUT_WR)
            received = connection.recv(1000)
            assert not received or received.startswith(b"HTTP/1.1 4")
    assert httpx.get(f"{service.url}/ready").status_code == 200
    assert "Traceback" not in service.stderr
