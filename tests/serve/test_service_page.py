"""The routes of the page: its files, their types and headers, and what they hold."""

import json
import re
from importlib.resources import files

import pytest

WEB = files("captioner") / "web"
SCRIPTS = sorted(file.name for file in WEB.iterdir() if file.name.endswith(".js"))


def test_the_start_is_the_page_of_the_export(service):
    response = service.get("/")
    assert response.status_code == 200
    assert response.text == (WEB / "index.html").read_text(encoding="utf-8")
    assert response.headers["content-type"] == "text/html; charset=utf-8"


@pytest.mark.parametrize(
    ("name", "media_type"),
    [
        ("style.css", "text/css; charset=utf-8"),
        ("icon.svg", "image/svg+xml"),
        *((name, "text/javascript; charset=utf-8") for name in SCRIPTS),
    ],
)
def test_files_of_the_page_have_their_types(service, name, media_type):
    response = service.get(f"/{name}")
    assert response.status_code == 200
    assert response.headers["content-type"] == media_type
    assert response.content == (WEB / name).read_bytes()


def test_site_json_names_the_engine_that_asks_the_service(service):
    response = service.get("/site.json")
    assert response.headers["content-type"] == "application/json"
    assert response.json() == {"engine": "http", "cropped": False, "examples": []}


def test_site_json_says_that_the_model_sees_the_center_only(start_service, tiny_model, tmp_path):
    for file in tiny_model.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    config = json.loads((tmp_path / "config.json").read_text())
    config["encoder"]["transform"] = "crop"
    (tmp_path / "config.json").write_text(json.dumps(config))
    service = start_service(tmp_path, ready=False)
    assert service.get("/site.json").json()["cropped"] is True


def _policy(response):
    directives = response.headers["content-security-policy"].split(";")
    return {name: values for name, *values in map(str.split, directives)}


@pytest.mark.parametrize("path", ["/", "/page.js", "/site.json"])
def test_policy_lets_the_page_reach_no_other_host(service, path):
    response = service.get(path)
    policy = _policy(response)
    assert policy["default-src"] == policy["frame-ancestors"] == ["'none'"]
    assert policy["script-src"] == policy["connect-src"] == policy["style-src"] == ["'self'"]
    allowed = {value for values in policy.values() for value in values}
    assert allowed == {"'none'", "'self'", "blob:"}
    assert response.headers["x-content-type-options"] == "nosniff"
    assert response.headers["referrer-policy"] == "no-referrer"


def test_a_stored_file_that_is_the_same_is_not_sent_again(service):
    first = service.get("/page.js")
    assert first.headers["cache-control"] == "no-cache"
    tag = first.headers["etag"]
    again = service.get("/page.js", headers={"If-None-Match": f'"other", W/{tag}'})
    assert (again.status_code, again.content) == (304, b"")
    assert again.headers["etag"] == tag
    assert service.get("/card.js", headers={"If-None-Match": tag}).status_code == 200


def test_the_page_can_be_asked_for_its_headers_alone(service):
    response = service.start("HEAD", "/").result(60)
    assert response.status_code == 200
    assert response.headers["content-type"] == "text/html; charset=utf-8"


@pytest.mark.parametrize("path", ["/../app.py", "/%2e%2e/serve/app.py", "/web/page.js", "/x.js"])
def test_no_other_file_is_served(service, path, errors):
    assert errors(service.get(path)) == (404, "not_found")


def test_the_page_is_open_where_the_service_asks_for_a_token(start_service, onnx_model):
    service = start_service(onnx_model, token="secret", ready=False)
    for path in ("/", "/page.js", "/site.json", "/openapi.json"):  # all that it needs to ask for it
        assert service.get(path).status_code == 200
    assert service.get("/v1/model").status_code == 401


def test_a_model_of_text_has_the_description_of_its_routes_instead(translation_service):
    response = translation_service.get("/")
    assert response.status_code == 307
    assert response.headers["location"] == "docs"
    assert translation_service.get("/page.js").status_code == 404


def test_the_page_is_not_among_the_documented_routes(service):
    assert not [path for path in service.get("/openapi.json").json()["paths"] if "." in path]


def test_sources_of_the_page_name_no_other_host():
    for file in WEB.iterdir():
        text = file.read_text(encoding="utf-8").replace("http://www.w3.org/", "")
        assert not re.search(r"https?://", text), file.name
