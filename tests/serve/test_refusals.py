"""What the service refuses: its status, its code, and the library's words."""

import base64
import io
import json
import struct
import zlib

import pytest
from PIL import Image
from services import run_async
from starlette.requests import Request

from captioner import Captioner
from captioner.config.service import ServiceConfig
from captioner.errors import UsageError
from captioner.serve.errors import ServiceError
from captioner.serve.limits import MemoryBudget, held_body
from captioner.serve.middleware import Drain


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
        ("no_repeat_ngram=101", "bad_options"),
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


def test_a_body_without_a_length_is_limited_as_it_comes(service, errors):
    async def chunks():
        for _ in range(17):  # of 64 KiB, and the limit is 1 MiB
            yield b"x" * 2**16

    assert errors(service.post("/v1/caption", content=chunks())) == (413, "too_large")
    assert service.state.budget.held == 0


@pytest.mark.parametrize("header", [b"content-length", b"transfer-encoding"])
def test_the_rest_of_a_body_is_read_before_it_is_refused(header):
    parts, sent = [{"body": b"x", "more_body": more} for more in (True, True, False)], []

    async def receive():
        return {"type": "http.request", **parts.pop(0)}

    async def refuse(scope, receive, send):
        await receive()
        await ServiceError(413, "too large").response()(scope, receive, send)

    async def send(message):
        sent.append((message["type"], len(parts)))

    scope = {"type": "http", "headers": [(header, b"3")]}
    run_async(Drain(refuse, seconds=5)(scope, receive, send))
    assert sent == [("http.response.start", 0), ("http.response.body", 0)]


def test_nothing_is_read_of_a_body_whose_length_is_above_the_limit():
    request = Request(
        {"type": "http", "headers": [(b"content-length", b"1048577")]},
        receive=lambda: pytest.fail("read"),
    )
    with pytest.raises(ServiceError) as error:
        run_async(held_body(request, MemoryBudget(2**30), ServiceConfig(max_request_mb=1)))
    assert error.value.status == 413


def test_the_limit_of_bytes_is_one_of_all_requests_together():
    budget = MemoryBudget(10)
    budget.take(6)
    with pytest.raises(ServiceError) as error:
        budget.take(5)
    assert error.value.status == 429
    budget.take(4)
    assert budget.held == 10


def test_the_bytes_of_a_request_that_is_refused_are_released(service, good):
    assert service.post("/v1/caption?beem=2", content=good).status_code == 400
    assert service.state.budget.held == 0


def test_a_form_of_more_than_a_thousand_fields_is_413(service, errors):
    for count, status in ((1000, 422), (1001, 413)):  # 422: there is no field a
        form = b"".join(_field(b"a") for _ in range(count)) + b"--x--\r\n"
        headers = {"content-type": "multipart/form-data; boundary=x"}
        response = service.post("/v1/caption", content=form, headers=headers)
        assert errors(response)[0] == status


def _field(name):
    return b'--x\r\nContent-Disposition: form-data; name="' + name + b'"\r\n\r\n\r\n'


def test_base64_with_other_characters_is_refused(service, good, errors):
    text = base64.b64encode(good).decode()
    assert service.post("/v1/caption", json={"file": text}).status_code == 200
    response = service.post("/v1/caption", json={"file": f"%{text}"})
    assert errors(response) == (422, "unprocessable")


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


def test_a_translation_that_cannot_be_aligned_is_not_sent_to_an_option(
    start_service, tiny_translator
):
    service = start_service(tiny_translator, explain="off")
    message = service.post("/v1/translate?align=1", content="a").json()["error"]
    assert message == {
        "code": "bad_options",
        "message": "align is not possible with this model, or is off: leave it out",
    }


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


@pytest.mark.parametrize(
    ("query", "options", "message"),
    [
        (
            "?a=1&b=2",
            {"content": b"x"},
            "decoding: unknown key 'a'; unknown key 'b'",
        ),
        (
            "",
            {"json": {"file": "", "beam": 5}},
            "unknown field 'beam': this route takes file; decoding settings go into the query, as "
            "in ?beam=5",
        ),
        (
            "",
            {"files": {"image": ("a.jpg", b"\xff\xd8")}},
            "unknown field 'image': this route takes file",
        ),
        (
            "",
            {"json": {"file": "data:image/jpeg;base64,AAAA"}},
            "an image in JSON is not valid base64: leave out line breaks and what stands before "
            "the data, such as data:image/jpeg;base64,",
        ),
        (
            "",
            {"content": b"x", "headers": {"content-encoding": "gzip"}},
            "the body has the Content-Encoding 'gzip': send it without any",
        ),
    ],
)
def test_a_mistake_of_a_program_is_named_with_the_way_out(service, query, options, message):
    response = service.post(f"/v1/caption{query}", **options)
    assert response.json()["error"]["message"] == message


def test_an_error_of_many_mistakes_or_of_a_long_name_is_one_line_of_bounded_length(service, errors):
    query = "&".join(f"a{number}=1" for number in range(2000))
    response = service.post(f"/v1/caption?{query}", content=b"x")
    assert errors(response) == (400, "bad_options")
    assert len(response.json()["error"]["message"]) < 1100
    named = {"file": {"name": "a\nb" + "c" * 5000, "data": "AAAA"}}
    response = service.post("/v1/caption", json=named)
    assert errors(response) == (415, "not_an_image")
    assert response.json()["error"]["message"].startswith("a b" + "c" * 97 + ": not an image")


def test_an_example_of_json_is_that_of_the_route(service, translation_service):
    headers = {"content-type": "application/json"}
    for asked, path, field in (
        (service, "/v1/caption", "file"),
        (translation_service, "/v1/translate", "text"),
    ):
        message = asked.post(path, content=b"[]", headers=headers).json()["error"]["message"]
        assert message.startswith(f'the JSON is not an object, as in {{"{field}": ')


def test_a_route_that_is_missing_says_why(service, translation_service):
    for asked, path, reads in (
        (service, "/v1/translate", "images"),
        (translation_service, "/v1/caption", "texts"),
    ):
        message = asked.post(path, content=b"a").json()["error"]["message"]
        assert message == f"no route {path}: the model of this service reads {reads}; see /docs"
    assert service.get("/x").json()["error"]["message"] == "no route /x: see /docs"
    message = service.get("/v1/caption").json()["error"]["message"]
    assert message == "/v1/caption takes POST, and this request is GET"


def test_no_redirect_repeats_the_host_that_a_client_has_made_up(service, good, errors):
    response = service.post("/v1/caption/", content=good, headers={"host": "evil.example"})
    assert errors(response) == (404, "not_found")
    assert "evil" not in str(response.headers) + response.text
