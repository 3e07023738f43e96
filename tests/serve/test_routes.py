"""What the routes answer to requests that are right: the same as the command line prints."""

import base64
import json
from importlib.metadata import version

import pytest

from captioner import Captioner


def close(found, expected):
    """Compare JSON values; batches of other sizes round numbers differently."""
    if isinstance(expected, dict):
        assert found.keys() == expected.keys()
        assert all(close(found[key], expected[key]) for key in expected)
    elif isinstance(expected, list):
        assert len(found) == len(expected)
        assert all(map(close, found, expected))
    elif isinstance(expected, float):
        assert found == pytest.approx(expected, abs=1e-4)
    else:
        assert found == expected
    return True


@pytest.fixture
def printed(run, onnx_model):
    """Return a function that captions files with the command line, and parses what it prints."""

    def call(*arguments):
        code, out, err = run("caption", "--model", onnx_model, "--json", *arguments)
        assert code == 0, err
        return [json.loads(line) for line in out.splitlines()]

    return call


def test_a_form_is_answered_like_the_command_line(service, photo, printed):
    response = service.post("/v1/caption", files={"file": (str(photo), photo.read_bytes())})
    assert response.status_code == 200
    close(response.json(), {"results": printed(photo)})


def test_options_of_the_query_are_those_of_the_library(service, photo, printed):
    query = {"beam": 4, "captions": 3, "max_length": 5, "no_repeat_words": "true"}
    response = service.post("/v1/caption", params=query, files={"file": ("p", photo.read_bytes())})
    options = ["--beam", 4, "--num-captions", 3, "--max-length", 5, "--no-repeat-words"]
    expected = printed(photo, *options)
    assert len(expected[0]["captions"]) == 3
    close(response.json()["results"], [{**expected[0], "image": "p"}])


def test_words_that_are_required_may_be_repeated_in_the_query(service, photo, onnx_model):
    words = Captioner.from_pretrained(onnx_model).vocabulary.words[-2:]
    query = [("require", word) for word in words]
    response = service.post("/v1/caption", params=query, content=photo.read_bytes())
    caption = response.json()["results"][0]["caption"].split()
    assert set(words) <= set(caption)


def test_the_bytes_of_an_image_are_a_body_whatever_their_type_is_called(service, photo, printed):
    expected = [{**printed(photo)[0], "image": None}]
    for kind in ("image/png", "application/octet-stream", "text/html", "application/json", ""):
        headers = {"content-type": kind}
        response = service.post("/v1/caption", content=photo.read_bytes(), headers=headers)
        close(response.json()["results"], expected)


def test_json_holds_images_as_base64_with_or_without_a_name(service, photo, printed):
    data = base64.b64encode(photo.read_bytes()).decode()
    body = {"file": [data, {"name": "<b>a</b>.jpg", "data": data}]}
    results = service.post("/v1/caption", json=body).json()["results"]
    [expected] = printed(photo)
    close(results, [{**expected, "image": None}, {**expected, "image": "<b>a</b>.jpg"}])
    one = service.post("/v1/caption", json={"file": data}).json()["results"]
    close(one, [{**expected, "image": None}])


def test_a_broken_image_leaves_the_others_of_its_request_their_captions(service, photo, printed):
    good = photo.read_bytes()
    files = [("file", (name, data)) for name, data in (("a", good), ("b", b"x"), ("c", good))]
    first, broken, last = service.post("/v1/caption", files=files).json()["results"]
    close([first, last], [{**printed(photo)[0], "image": name} for name in "ac"])
    assert broken["image"] == "b"
    assert broken["error"]["code"] == "not_an_image"
    assert broken["error"]["message"].startswith("b: not an image")


def test_scores_are_those_of_the_command_line(service, photo, run, onnx_model):
    captions = ["a red circle", "a zebra"]
    given = [part for caption in captions for part in ("--caption", caption)]
    _, out, _ = run("score", photo, *given, "--model", onnx_model, "--json")
    expected = sorted(map(json.loads, out.splitlines()), key=lambda each: each["caption"])
    names = ("caption", "log_prob", "mean_log_prob", "unknown_words")
    expected = [{name: each[name] for name in names} for each in expected]
    data = photo.read_bytes()
    form = service.post("/v1/score", files={"file": ("p", data)}, data={"caption": captions})
    query = service.post("/v1/score", params={"caption": captions}, content=data)
    body = {"file": base64.b64encode(data).decode(), "caption": captions}
    for response in (form, query, service.post("/v1/score", json=body)):
        close(response.json()["results"], expected)


def test_heat_maps_are_those_of_the_library(start_service, attentive_onnx_model, photo):
    service = start_service(attentive_onnx_model)
    response = service.post("/v1/caption?explain=true", content=photo.read_bytes())
    captioner = Captioner.from_pretrained(attentive_onnx_model, device="cpu")
    expected = captioner.caption(photo, explain=True)
    [result] = response.json()["results"]
    assert result["explanation"] == "attention"
    heat = [[list(row) for row in word.heat] for word in expected.words]
    close([word["heat"] for word in result["words"]], heat)


def test_translations_are_those_of_the_command_line(
    translation_service, run, tiny_translator, tmp_path
):
    texts = ["the dog runs .", "", "a cat sleeps"]
    file = tmp_path / "texts"
    file.write_text("\n".join(texts) + "\n")
    options = ["--num-captions", 2, "--beam", 3, "--align"]
    _, out, err = run("translate", file, "--model", tiny_translator, "--json", *options)
    expected = [json.loads(line) for line in out.splitlines()]
    assert len(expected) == 3, err
    query = {"captions": 2, "beam": 3, "align": "true"}
    response = translation_service.post("/v1/translate", params=query, json={"text": texts})
    close(response.json()["results"], expected)


def test_a_text_is_a_body(translation_service):
    plain = translation_service.post("/v1/translate", content="the dog runs .")
    in_json = translation_service.post("/v1/translate", json={"text": "the dog runs ."})
    assert plain.json() == in_json.json()
    assert plain.json()["results"][0]["source"] == "the dog runs ."


def test_a_service_of_images_has_no_translation_and_the_other_way_round(
    service, translation_service, errors
):
    assert errors(service.post("/v1/translate", content="a")) == (404, "not_found")
    assert errors(translation_service.post("/v1/caption", content="a")) == (404, "not_found")


def test_the_model_is_described(service, start_service, onnx_model):
    described = service.get("/v1/model").json()
    captioner = Captioner.from_pretrained(onnx_model)
    assert described["reads"] == "image"
    assert described["vocabulary_size"] == len(captioner.vocabulary)
    assert described["decoding"] == captioner.config.decoding.to_json()
    assert described["calibrated"] is True
    assert described["licence"] is None
    assert described["limits"]["max_images"] == 4


def test_licence_and_data_of_the_bundled_model_are_those_of_its_card(start_service):
    described = start_service("bundled").get("/v1/model").json()
    assert described["name"] == "bundled"
    assert "research use only" in described["licence"]
    assert "Flickr8k" in described["data"]


def test_metrics_count_requests_batches_and_rejections(start_service, onnx_model, photo):
    service = start_service(onnx_model)
    for _ in range(3):
        service.post("/v1/caption", content=photo.read_bytes())
    service.post("/v1/caption", content=b"x")
    service.get("/made/up")
    lines = service.get("/metrics").text.splitlines()
    for line in (
        'captioner_requests_total{route="/v1/caption",status="200"} 3.0',
        'captioner_requests_total{route="other",status="404"} 1.0',
        'captioner_rejections_total{code="not_an_image"} 1.0',
        "captioner_batch_size_sum 3.0",
        'captioner_stage_seconds_count{stage="total"} 3.0',
        'captioner_stage_seconds_count{stage="queue"} 3.0',
        "captioner_queue_depth 0.0",
        "captioner_request_bytes 0.0",
    ):
        assert line in lines


def test_openapi_has_every_route_and_setting_and_its_page_asks_no_other_host(service):
    described = service.get("/openapi.json").json()
    assert described["info"]["version"] == version("captioner")
    assert set(described["paths"]) == {
        *("/health", "/ready", "/metrics", "/v1/model", "/v1/caption", "/v1/score"),
    }
    options = described["paths"]["/v1/caption"]["post"]["parameters"]
    assert {"beam", "require", "min_confidence", "explain"} <= {each["name"] for each in options}
    page = service.get("/docs")
    assert page.headers["content-security-policy"].startswith("default-src 'none'")
    assert "<script" not in page.text
    assert "//" not in page.text.replace("http://localhost", "")


def test_examples_of_the_documentation_name_the_host_that_was_asked(service):
    for host, shown in (
        ("captions.example:9000", "captions.example:9000"),
        ("a;rm b", "localhost"),
    ):
        text = service.get("/docs", headers={"host": host}).text
        assert f"curl {shown}" in text
        assert "rm b" not in text


def test_the_documentation_says_which_values_a_setting_takes(service):
    text = service.get("/docs").text
    for name, values in (
        ("method", "beam or sample"),
        ("beam", "whole number from 1 to 10"),
        ("top_p", "number above 0 to 1"),
        ("seed", "whole number"),
        ("top_k", "whole number from 1 or null"),
        ("require", "text; repeat it for several"),
        ("no_repeat_words", "true or false"),
    ):
        [row] = [row for row in text.split("<tr>") if row.startswith(f"<td><code>{name}</code>")]
        assert f"<td>{values}</td>" in row


@pytest.mark.parametrize("path", ["/health", "/ready"])
def test_probes_may_ask_for_the_headers_alone(service, path):
    assert service.start("HEAD", path).result(60).status_code == 200


def test_null_is_no_value_where_a_setting_can_have_none(start_service, onnx_model, photo):
    """Leaving out what the model folder sets does not unset it."""
    service = start_service(onnx_model)
    settings = service.state.engine._model.config.decoding
    object.__setattr__(settings, "no_repeat_ngram", 1)
    try:
        refused = service.post("/v1/caption?prefix=null", content=photo.read_bytes())
        assert "'null' is not in the model's vocabulary" in refused.text  # a text can be this word
        limited, free = (
            service.post(f"/v1/caption?{query}", content=photo.read_bytes()).json()["results"][0]
            for query in ("max_length=9", "max_length=9&no_repeat_ngram=null")
        )
    finally:
        object.__setattr__(settings, "no_repeat_ngram", None)
    captioner = Captioner.from_pretrained(onnx_model)
    for found, size in ((limited, 1), (free, None)):
        changes = {"max_length": 9, "no_repeat_ngram": size}
        assert found["caption"] == captioner.caption(photo, decoding=changes).text
    assert limited["caption"] != free["caption"]


def test_requests_are_logged_without_their_content(start_service, onnx_model, photo, capsys):
    service = start_service(onnx_model)
    service.post("/v1/caption?seed=12345", content=photo.read_bytes())
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("{")]
    [line] = map(json.loads, lines)
    assert {**line, "time": "", "ms": 0} == {
        "time": "",
        "client": "127.0.0.1",
        "method": "POST",
        "path": "/v1/caption",
        "status": 200,
        "ms": 0,
        "bytes": photo.stat().st_size,
    }
