"""What the service refuses: its status, its code, and the library's words."""

import io
import json
import struct
import zlib

import pytest
from PIL import Image

from captioner import Captioner
from captioner.errors import UsageError


@pytest.fixture
def good(photo):
    return photo.read_bytes()


def png(width, height):
    """The header of a PNG of this size, without its pixels."""
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))
    return b"\x89PNG\r\n\x1a\n" + chunk + b"\0\0\0\0IDAT" + struct.pack(">I", zlib.crc32(b"IDAT"))


@pytest.mark.parametrize(
    ("query", "code"),
    [
        ("beem=2", "bad_options"),
        ("beam=0", "bad_options"),
        ("beam=two", "bad_options"),
        ("beam=", "bad_options"),
        ("beam=1&beam=2", "bad_options"),
        ("beam=" + "9" * 30, "bad_options"),
        ("beam=" + "9" * 5000, "bad_options"),
        ("temperature=nan", "bad_options"),
        ("length_alpha=1e400", "bad_options"),
        ("beam=11", "bad_options"),
        ("captions=11", "bad_options"),
        ("groups=11", "bad_options"),
        ("max_length=101", "bad_options"),
        ("&".join(["require=a"] * 11), "bad_options"),
        ("prefix=" + "a" * 1001, "bad_options"),
        ("require=zzzz", "bad_options"),
        ("explain=maybe", "bad_options"),
        ("explain=1", "bad_options"),
        ("replace_unknown=1", "bad_options"),
    ],
)
def test_bad_options_are_400(service, good, errors, query, code):
    assert errors(service.post(f"/v1/caption?{query}", content=good)) == (400, code)


def test_bad_options_are_named_in_the_librarys_words(service, good, onnx_model):
    captioner = Captioner.from_pretrained(onnx_model)
    for changes in ({"beem": "2"}, {"beam": "0"}):
        with pytest.raises(UsageError) as error:
            captioner.decoding_config(changes)
        message = service.post("/v1/caption", params=changes, content=good).json()["error"]
        assert message["message"] == " ".join(str(error.value).split())


def test_the_largest_search_that_is_allowed_is_done(service, good):
    query = "beam=10&captions=10&max_length=100"
    assert service.post(f"/v1/caption?{query}", content=good).status_code == 200


@pytest.mark.parametrize(
    ("content", "status", "code"),
    [
        (b"", 422, "broken_image"),
        (b"hello", 415, "not_an_image"),
        (b"<html></html>", 415, "not_an_image"),
        (b"\xff\xd8\xff\xe0 no more of it", 422, "broken_image"),
        (png(8, 8), 422, "broken_image"),
        (png(400, 300), 413, "too_many_pixels"),
        (png(2**31 - 1, 2**31 - 1), 413, "too_many_pixels"),
    ],
)
def test_what_is_no_image_has_its_status(service, errors, content, status, code):
    assert errors(service.post("/v1/caption", content=content)) == (status, code)
    files = {"file": ("photo.jpg", content, "image/jpeg")}
    assert errors(service.post("/v1/caption", files=files)) == (status, code)
    assert errors(service.post("/v1/score?caption=a", content=content)) == (status, code)


def test_an_image_whose_text_inflates_without_end_is_broken(service, errors):
    file = io.BytesIO()
    Image.new("RGB", (8, 8)).save(file, "PNG")
    bomb = b"zTXtbomb\0\0" + zlib.compress(b"a" * 100_000_000, 9)
    chunk = struct.pack(">I", len(bomb) - 4) + bomb + struct.pack(">I", zlib.crc32(bomb))
    content = file.getvalue()[:33] + chunk + file.getvalue()[33:]
    status, _ = errors(service.post("/v1/caption", content=content))
    assert status == 422


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ("{", 400),
        ('{"file": ' + "9" * 5000 + "}", 400),
        ('{"file": NaN}', 400),
        ('{"file": ' + "[" * 100_000, 400),
        ('{"file": 1e999}', 422),
        ('{"file": null}', 422),
        ('{"file": []}', 422),
        ('{"file": "%%%"}', 422),
        ('{"file": "é"}', 422),
        ('{"file": {"data": 3}}', 422),
        ('{"file": {"data": "", "name": 3}}', 422),
        ('{"file": {"data": "", "url": "http://a"}}', 422),
        ('{"image": ""}', 422),
        ('{"url": "http://a"}', 422),
        ('{"url": 3}', 422),
        ("{}", 422),
        ("[]", 422),
        ("3", 422),
        ('{"file": "", "caption": 1}', 422),
    ],
)
def test_json_of_another_form_is_refused(service, errors, body, status):
    headers = {"content-type": "application/json"}
    found, _ = errors(service.post("/v1/caption", content=body.encode(), headers=headers))
    assert found == status


@pytest.mark.parametrize(
    ("content", "kind", "status"),
    [
        (b"", "multipart/form-data", 400),
        (b"", "multipart/form-data; boundary=", 400),
        (b"abc", "multipart/form-data; boundary=x", 400),
        (b"--x\r\nno header\r\n\r\n", "multipart/form-data; boundary=x", 400),
        (b"--x\r\n\r\ncontent\r\n--x--\r\n", "multipart/form-data; boundary=x", 422),
        (b"--x--\r\n", "multipart/form-data; boundary=x", 422),
        (b"x", "multipart/form-data; boundary=" + "x" * 1000, 400),
    ],
)
def test_broken_forms_are_refused(service, errors, content, kind, status):
    headers = {"content-type": kind}
    found, _ = errors(service.post("/v1/caption", content=content, headers=headers))
    assert found == status


@pytest.mark.parametrize("name", ["../../etc/passwd", "a\\b", "x" * 3000, "\0", "é", 'a"b'])
def test_the_name_of_a_file_is_only_text(service, good, name):
    response = service.post("/v1/caption", files={"file": (name, good)})
    assert response.status_code == 200
    assert isinstance(response.json()["results"][0]["image"], str)


def test_a_field_url_is_422_everywhere(service, translation_service, good, errors):
    form = {"data": {"url": "http://127.0.0.1/"}, "files": {"file": ("a", good)}}
    for route, options in (
        ("/v1/caption", form),
        ("/v1/caption", {"json": {"url": "http://127.0.0.1/"}}),
        ("/v1/caption?url=http://127.0.0.1/", {"content": good}),
        ("/v1/score", form),
        ("/v1/score?url=http://127.0.0.1/", {"content": good}),
    ):
        response = service.post(route, **options)
        assert errors(response)[0] == 422
        assert "'url': the service fetches nothing" in response.json()["error"]["message"]
    assert errors(translation_service.post("/v1/translate", json={"url": "a"}))[0] == 422


def test_requests_that_are_too_large_are_413(service, good, errors):
    large = b"x" * (2**20 + 1)
    assert errors(service.post("/v1/caption", content=large)) == (413, "too_large")
    files = [("file", ("a", good))] * 5
    assert errors(service.post("/v1/caption", files=files)) == (413, "too_many")
    assert service.post("/v1/caption", files=files[:4]).status_code == 200


def test_what_cannot_be_scored_is_refused(service, good, errors):
    assert errors(service.post("/v1/score", content=good)) == (422, "unprocessable")
    assert errors(service.post("/v1/score?beam=2&caption=a", content=good)) == (400, "bad_options")
    long = {"caption": "a" * 1001}
    assert errors(service.post("/v1/score", params=long, content=good)) == (413, "too_long")
    many = {"caption": ["a"] * 5}
    assert errors(service.post("/v1/score", params=many, content=good)) == (413, "too_many")
    files = [("file", ("a", good))] * 2
    response = service.post("/v1/score?caption=a", files=files)
    assert errors(response) == (422, "unprocessable")


def test_what_cannot_be_translated_is_refused(translation_service, errors):
    post = translation_service.post
    assert errors(post("/v1/translate", content="a" * 51)) == (413, "too_long")
    assert errors(post("/v1/translate", content=b"\xff\xfe")) == (422, "unprocessable")
    assert errors(post("/v1/translate", json={"text": []})) == (422, "unprocessable")
    assert errors(post("/v1/translate", json={"text": [3]})) == (422, "unprocessable")
    half = json.dumps({"text": "\ud800"}).encode()
    assert errors(post("/v1/translate", content=half)) == (422, "unprocessable")
    assert errors(post("/v1/translate?min_confidence=0.5", content="a")) == (400, "bad_options")


def test_unknown_paths_and_methods_are_errors_in_json(service, errors):
    assert errors(service.get("/nothing/%00/..%2f")) == (404, "not_found")
    response = service.get("/v1/caption")
    assert errors(response) == (405, "method_not_allowed")
    assert response.headers["allow"] == "POST"


def test_a_token_is_asked_for_where_there_is_data(start_service, onnx_model, good, errors):
    service = start_service(onnx_model, token="s3cret")
    for headers in (
        {},
        {"authorization": "Bearer"},
        {"authorization": "Bearer s3cre"},
        {"authorization": "Bearer s3cret2"},
        {"authorization": "Basic s3cret"},
        {"authorization": "Bearer é".encode()},
    ):
        response = service.post("/v1/caption", content=good, headers=headers)
        assert errors(response) == (401, "unauthorized")
        assert response.headers["www-authenticate"] == "Bearer"
        for path in ("/metrics", "/v1/model"):
            assert service.get(path, headers=headers).status_code == 401
    right = {"authorization": "bearer s3cret"}
    assert service.post("/v1/caption", content=good, headers=right).status_code == 200
    assert service.get("/metrics", headers=right).status_code == 200
    for path in ("/health", "/ready", "/docs"):
        assert service.get(path).status_code == 200


def test_other_origins_may_use_the_service_only_if_they_are_named(start_service, onnx_model, good):
    here, there = {"origin": "https://here.example"}, {"origin": "https://there.example"}
    closed = start_service(onnx_model)
    assert "access-control-allow-origin" not in closed.get("/health", headers=here).headers
    named = start_service(onnx_model, cors=["https://here.example"], token="t")
    allowed = named.get("/health", headers=here).headers["access-control-allow-origin"]
    assert allowed == "https://here.example"
    assert "access-control-allow-origin" not in named.get("/health", headers=there).headers
    # also an error, which the page could not read otherwise
    refused = named.post("/v1/caption", content=good, headers=here)
    assert refused.status_code == 401
    assert refused.headers["access-control-allow-origin"] == "https://here.example"
