"""The page of the service in a browser: captions, errors, token, camera, heat maps, downloads.

Skipped without Playwright and Chromium.
"""

import base64
import io
import json
import re
import time

import httpx
import numpy as np
import pytest
from browsing import wait_until
from PIL import Image
from services import ServiceProcess

from captioner import Captioner

pytestmark = pytest.mark.slow

READY = "body[data-ready]"
CAPTION = ".text:not(.message)"


@pytest.fixture(scope="module")
def serve():
    """Return a function that starts a service in a process."""
    running = []

    def start(model, *options, ready="/ready", **rest):
        service = ServiceProcess(model, *options, **rest)
        running.append(service)
        return service.wait_until(ready)

    yield start
    for service in running:
        service.__exit__()


@pytest.fixture(scope="module")
def small(serve, onnx_model):
    """A service with a model without attention, which takes requests of 1 MiB."""
    return serve(onnx_model, "--max-request-mb", "1")


@pytest.fixture(scope="module")
def attentive(serve, attentive_onnx_model):
    """A service whose model has heat maps."""
    return serve(attentive_onnx_model)


@pytest.fixture
def opened(chromium):
    """Open the page of a service; after the test, check its requests and its error messages."""
    contexts, requests, messages, urls = [], [], [], []

    def open_page(service, *, wait=True, width=1280, height=900, setup=None, **options):
        context = chromium.new_context(viewport={"width": width, "height": height}, **options)
        contexts.append(context)
        urls.append(service.url + "/")
        context.on("request", lambda request: requests.append(request.url))
        page = context.new_page()
        page.on("console", lambda message: messages.append(message.text))
        page.on("pageerror", lambda error: messages.append(str(error)))
        if setup:
            setup(page)
        page.goto(service.url)
        if wait:
            page.locator(READY).wait_for()
        return page

    yield open_page
    for context in contexts:
        context.close()
    own = tuple(start + url for url in urls for start in ("", "blob:"))
    assert [url for url in requests if not url.startswith(own)] == []
    # The browser reports each request that fails, as the tests let some.
    assert [text for text in messages if not text.startswith("Failed to load resource")] == []


@pytest.fixture
def photos(shapes):
    return sorted((shapes / "dev").iterdir())[:4]


def add(page, *paths):
    page.set_input_files("#files", [str(path) for path in paths])


def card(page, path):
    return page.get_by_role("listitem", name=path.name, exact=True)


def caption(page, path):
    text = card(page, path).locator(CAPTION)
    text.wait_for()
    return text.inner_text()


def failure(page, path):
    text = card(page, path).locator(".text.error")
    text.wait_for()
    return text.inner_text()


def fill(page, label, value):
    if not page.locator("#form").is_visible():
        page.get_by_text("Settings", exact=True).click()
        page.get_by_text("More settings").click()
    field = page.locator("#form").get_by_label(label, exact=True)
    field.fill(value)
    field.blur()


def posts(page):
    """Return the list to which requests for captions are added from now on."""
    found = []
    page.on("request", lambda each: found.append(each) if each.method == "POST" else None)
    return found


def test_photos_are_captioned_as_the_library_does(opened, small, onnx_model, photos):
    page = opened(small)
    fill(page, "Captions", "3")
    page.wait_for_timeout(200)
    add(page, *photos)
    captioner = Captioner.from_pretrained(onnx_model, device="cpu")
    for photo in photos:
        expected = captioner.caption(photo, decoding={"captions": 3})
        assert caption(page, photo) == expected.text
        item = card(page, photo)
        words = item.locator(".body > .words li").evaluate_all(
            "(items) => items.map((item) => [item.textContent, item.dataset.value])"
        )
        assert words == [
            [word.text, f"{round(100 * word.confidence)} %"] for word in expected.words
        ]
        others = item.locator(".others summary").all_inner_texts()
        assert [text.rpartition(" (")[0] for text in others] == [
            other.text for other in expected.others
        ]
        assert item.get_by_role("img", name=expected.text).count() == 1


def test_reader_is_told_that_images_are_sent(opened, small):
    page = opened(small)
    text = page.locator("body").inner_text()
    assert f"Your images are sent to this server (127.0.0.1:{small.port})" in text
    assert "this device" not in text


def test_several_photos_are_asked_for_at_a_time(opened, serve, onnx_model, photos):
    page = opened(serve(onnx_model, slow=(1, 0)))
    sent = posts(page)
    add(page, *photos)
    page.locator(f"{CAPTION} >> nth=0").wait_for(state="attached")
    assert len(sent) == len(photos)


def test_download_holds_the_answers_of_the_service(opened, small, photos, tmp_path):
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(photos[0].read_bytes()[:200])
    page = opened(small)
    button = page.get_by_role("button", name="Download JSONL")
    add(page, broken)
    failure(page, broken)
    assert not button.is_visible()
    add(page, *photos[:2])
    for photo in photos[:2]:
        caption(page, photo)
    with page.expect_download() as download:
        button.click()
    assert download.value.suggested_filename == "captions.jsonl"
    download.value.save_as(tmp_path / "captions.jsonl")
    lines = [json.loads(line) for line in (tmp_path / "captions.jsonl").read_text().splitlines()]
    files = [("file", (photo.name, photo.read_bytes())) for photo in photos[:2]]
    expected = httpx.post(f"{small.url}/v1/caption", files=files).json()["results"]
    assert [line["image"] for line in lines] == [photo.name for photo in photos[:2]]
    for line, other in zip(lines, expected, strict=True):
        assert line.keys() == other.keys()
        assert line["caption"] == other["caption"]
        assert line["log_prob"] == pytest.approx(other["log_prob"], abs=1e-4)


def test_settings_are_those_of_the_model_and_the_limits_those_of_the_service(opened, small):
    page = opened(small)
    page.get_by_text("Settings", exact=True).click()
    beam = page.locator("#form").get_by_label("Beam", exact=True)
    model = httpx.get(f"{small.url}/v1/model").json()
    assert beam.input_value() == str(model["decoding"]["beam"])
    assert beam.get_attribute("max") == str(model["limits"]["max_beam"])
    page.get_by_text("More settings").click()
    assert page.locator("#form").get_by_label("Method", exact=True).input_value() == "beam"
    assert page.get_by_label("Length Ratio").count() == 0  # of models of text


@pytest.mark.parametrize(
    ("label", "value", "query"), [("Prefix", "a zyzzyva", "prefix"), ("Min Length", "99", None)]
)
def test_wrong_setting_has_the_words_of_the_service_and_is_not_used(
    label, value, query, opened, small, photos
):
    page = opened(small)
    fill(page, label, value)
    query = {query or "min_length": value}
    answer = httpx.post(f"{small.url}/v1/caption", params=query, content=photos[0].read_bytes())
    assert answer.status_code == 400
    page.locator("#settings-error", has_text=answer.json()["error"]["message"]).wait_for()
    add(page, photos[0])
    assert caption(page, photos[0])


def test_changed_settings_caption_the_images_again(opened, small, onnx_model, photos):
    page = opened(small)
    add(page, photos[0])
    first = caption(page, photos[0])
    words = first.split()[:1]
    fill(page, "Forbid", words[0])
    page.locator(f".card {CAPTION}").filter(has_not_text=first).wait_for()
    expected = Captioner.from_pretrained(onnx_model, device="cpu").caption(
        photos[0], decoding={"forbid": words}
    )
    assert caption(page, photos[0]) == expected.text


UNREADABLE = {
    "large.bmp": (b"BM" + bytes(2**20), 413),
    "paper.pdf": (b"%PDF-1.7\n", 415),
    "object.json": (b'{"file": []}', 415),
    "cut.png": (b"\x89PNG\r\n\x1a\n" + bytes(40), 422),
    "empty.jpg": (b"", 422),
}


def test_errors_of_images_have_the_words_of_the_service(opened, small, photos, tmp_path):
    page = opened(small)
    for name, (content, _) in UNREADABLE.items():
        (tmp_path / name).write_bytes(content)
    add(page, *(tmp_path / name for name in UNREADABLE), photos[0])
    for name, (content, status) in UNREADABLE.items():
        answer = httpx.post(f"{small.url}/v1/caption", files={"file": (name, content)})
        assert answer.status_code == status, name
        words = answer.json()["error"]["message"].removeprefix(f"{name}: ")
        assert failure(page, tmp_path / name) == f"{name}: {words}"
    assert caption(page, photos[0])
    assert page.get_by_role("button", name="Try again").count() == 0  # it would not help


def test_full_queue_is_waited_for(opened, serve, onnx_model, photos):
    page = opened(serve(onnx_model, "--max-queue", "1", "--workers", "1", slow=(0.8, 0)))
    refused, sent = [], []
    page.on(
        "response",
        lambda each: refused.append((time.monotonic(), each)) if each.status == 429 else None,
    )
    page.on("request", lambda each: sent.append(time.monotonic()) if each.method == "POST" else 0)
    add(page, *photos)
    page.get_by_text("the next try is in").first.wait_for()
    for photo in photos:
        assert caption(page, photo)
    assert refused
    # Every refusal is followed by one further request, and none before its time.
    assert len(sent) == len(photos) + len(refused)
    again = sorted(sent)[len(photos) :]
    for (when, answer), then in zip(refused, again, strict=True):
        assert then - when > int(answer.headers["retry-after"]) - 0.2


def test_model_that_is_being_loaded_is_waited_for(opened, serve, onnx_model):
    service = serve(onnx_model, slow=(0, 3), ready="/health")
    page = opened(service, wait=False)
    page.locator("#status", has_text="the model is being loaded").wait_for()
    page.locator(READY).wait_for()


def test_service_that_ends_is_explained_and_can_be_tried_again(opened, serve, onnx_model, photos):
    service = serve(onnx_model, slow=(1, 0))
    page = opened(service)
    add(page, photos[0])
    caption(page, photos[0])

    def end(route):
        error = {"code": "not_ready", "message": "the service is shutting down"}
        route.fulfill(status=503, json={"error": error}, headers={"Retry-After": "5"})

    page.context.route("**/v1/caption*", end)
    add(page, photos[1])
    assert failure(page, photos[1]) == f"{photos[1].name}: the service is shutting down"
    page.context.unroute("**/v1/caption*", end)
    page.get_by_role("button", name="Try again").click()
    assert caption(page, photos[1])


def test_server_that_is_gone_is_explained(opened, serve, onnx_model, photos):
    service = serve(onnx_model)
    page = opened(service)
    service.process.kill()
    service.process.wait()
    add(page, photos[0])
    assert "the server does not answer" in failure(page, photos[0])


def test_removed_photo_is_no_longer_asked_for(opened, serve, onnx_model, photos):
    page = opened(serve(onnx_model, slow=(2, 0)))
    add(page, photos[0])
    with page.expect_event("requestfailed") as failed:
        page.get_by_role("button", name=f"Remove {photos[0].name}").click()
    assert failed.value.failure == "net::ERR_ABORTED"
    assert page.locator(".card").count() == 0


def test_token_is_asked_for_once_in_a_tab(opened, serve, onnx_model, photos):
    service = serve(onnx_model, env={"CAPTIONER_TOKEN": "secret"})
    page = opened(service, wait=False)
    field = page.get_by_label("Token of this server")
    field.wait_for()
    assert field.evaluate("(field) => field === document.activeElement && field.type") == "password"
    field.fill("wrong")
    page.keyboard.press("Enter")
    page.get_by_text("This server refuses the token").wait_for()
    field.fill("secret")
    page.keyboard.press("Enter")
    page.locator(READY).wait_for()
    assert not field.is_visible()
    add(page, photos[0])
    assert caption(page, photos[0])
    page.reload()
    page.locator(READY).wait_for()
    assert page.evaluate("Object.values(sessionStorage)") == ["secret"]
    assert page.evaluate("localStorage.length + document.cookie.length") == 0
    assert "secret" not in page.url
    assert "secret" not in service.stderr


def test_token_that_is_refused_later_is_asked_for_again(opened, small, photos):
    page = opened(small)
    error = {"code": "unauthorized", "message": "this service asks for a token"}
    page.context.route("**/v1/*", lambda route: route.fulfill(status=401, json={"error": error}))
    add(page, *photos[:2])
    page.get_by_label("Token of this server").wait_for()
    page.context.unroute_all()
    page.get_by_label("Token of this server").fill("new")
    page.get_by_role("button", name="Use this token").click()
    for photo in photos[:2]:
        assert caption(page, photo)


RECORD = """() => {
  window.recorded = [];
  const { fetch } = window;
  window.fetch = async (url, options) => {
    const bytes = new Uint8Array(await options.body.get("file").arrayBuffer());
    window.recorded.push(btoa(Array.from(bytes, (byte) => String.fromCharCode(byte)).join("")));
    return fetch(url, options);
  };
}"""


class Frames:
    """What the page sends of the camera: pictures, times, and how many wait at once."""

    def __init__(self, page):
        self.page, self.times, self.open, self.most = page, [], 0, 0
        page.evaluate(RECORD)
        page.on("request", self._start)
        for event in ("requestfinished", "requestfailed"):
            page.on(event, self._end)

    def _start(self, request):
        if request.method == "POST":
            self.times.append(time.monotonic())
            self.open += 1
            self.most = max(self.most, self.open)

    @property
    def bodies(self):
        return [base64.b64decode(text) for text in self.page.evaluate("window.recorded")]

    def _end(self, request):
        self.open -= request.method == "POST"


def test_camera_has_a_caption_each_second_until_it_is_closed(opened, small):
    page = opened(small, permissions=["camera"])
    frames = Frames(page)
    page.get_by_role("button", name="Use the camera").click()
    page.locator("#live", has_text=re.compile(r"\w")).wait_for()
    page.wait_for_timeout(4500)
    page.keyboard.press("Escape")
    page.wait_for_timeout(300)
    count = len(frames.bodies)
    assert 4 <= count <= 7
    assert np.median(np.diff(frames.times[1:])) == pytest.approx(1, abs=0.3)
    page.wait_for_timeout(1500)
    assert len(frames.bodies) == count
    assert page.locator(".card").count() == 0


def test_frame_that_is_captioned_slowly_delays_the_next_and_the_newest_is_sent(
    opened, serve, onnx_model
):
    page = opened(serve(onnx_model, slow=(1.6, 0)), permissions=["camera"])
    frames = Frames(page)
    page.get_by_role("button", name="Use the camera").click()
    page.wait_for_timeout(6500)
    page.keyboard.press("Escape")
    page.wait_for_timeout(200)
    assert frames.most == 1
    assert 3 <= len(frames.bodies) <= 5
    assert np.diff(frames.times).min() > 1.5
    assert len(set(frames.bodies)) == len(frames.bodies)  # the camera's picture has a clock
    images = [Image.open(io.BytesIO(body)) for body in frames.bodies]
    assert {image.format for image in images} == {"JPEG"}
    assert max(image.width for image in images) <= 640


def test_frame_that_is_refused_is_not_sent_again(opened, small):
    page = opened(small, permissions=["camera"])
    frames = Frames(page)
    error = {"code": "queue_full", "message": "the queue is full"}
    headers = {"Retry-After": "2"}
    page.context.route(
        "**/v1/caption*",
        lambda route: route.fulfill(status=429, json={"error": error}, headers=headers),
    )
    page.get_by_role("button", name="Use the camera").click()
    page.locator("#live", has_text="the queue is full").wait_for()
    page.wait_for_timeout(4500)
    page.keyboard.press("Escape")
    assert np.diff(frames.times).min() > 1.9
    assert len(set(frames.bodies)) == len(frames.bodies) >= 2


def test_camera_takes_a_picture_that_is_captioned(opened, small):
    page = opened(small, permissions=["camera"])
    page.get_by_role("button", name="Use the camera").click()
    wait_until(page, "document.querySelector('video').videoWidth > 0")
    page.get_by_role("button", name="Take the picture").click()
    page.locator(f".card {CAPTION}").wait_for()
    assert page.locator(".card .name").inner_text() == "camera 1.jpg"


def _opacities(page):
    """Return the opacity of each cell of the heat map that is shown, as rows."""
    canvas = page.locator(".card canvas")
    canvas.wait_for()
    rows, data = canvas.evaluate(
        """(canvas) => {
          const { width, height } = canvas;
          const { data } = canvas.getContext("2d").getImageData(0, 0, width, height);
          return [height, [...data].filter((_, index) => index % 4 === 3)];
        }"""
    )
    return np.reshape(data, (rows, -1))


def test_word_shows_its_heat_map_on_hover_and_on_focus(opened, attentive, photos):
    page = opened(attentive)
    sent = posts(page)
    add(page, photos[0])
    caption(page, photos[0])
    assert len(sent) == 1  # heat maps are computed when one is wanted
    answer = httpx.post(
        f"{attentive.url}/v1/caption?explain=true", content=photos[0].read_bytes(), timeout=60
    ).json()
    heats = [np.array(word["heat"]) for word in answer["results"][0]["words"]]
    words = page.locator(".card .body > .words li")
    assert words.count() == len(heats) >= 2
    words.nth(0).hover()
    expected = 190 * heats[0] / heats[0].max()
    np.testing.assert_allclose(_opacities(page), expected, atol=1.5)
    box, picture = (page.locator(f".card {tag}").bounding_box() for tag in ("canvas", "img"))
    assert box == pytest.approx(picture, abs=1)
    page.mouse.move(0, 0)
    page.locator(".card canvas").wait_for(state="detached")
    words.nth(0).focus()
    page.keyboard.press("Tab")
    assert words.nth(1).evaluate("(word) => word === document.activeElement")
    expected = 190 * heats[1] / heats[1].max()
    np.testing.assert_allclose(_opacities(page), expected, atol=1.5)
    words.nth(1).blur()
    page.locator(".card canvas").wait_for(state="detached")
    assert len(sent) == 2


def test_heat_map_covers_the_center_that_the_model_sees(opened, attentive, tmp_path):
    wide = tmp_path / "wide.png"
    Image.new("RGB", (400, 200), "green").save(wide)
    site = {"engine": "http", "cropped": True, "examples": []}
    page = opened(
        attentive,
        setup=lambda page: page.route("**/site.json", lambda route: route.fulfill(json=site)),
    )
    add(page, wide)
    caption(page, wide)
    page.locator(".card .body > .words li").first.focus()
    page.locator(".card canvas").wait_for()
    box, picture = (page.locator(f".card {tag}").bounding_box() for tag in ("canvas", "img"))
    assert box["width"] == pytest.approx(box["height"], abs=1)
    assert box["height"] == pytest.approx(picture["height"], abs=1)
    center = box["x"] + box["width"] / 2
    assert center == pytest.approx(picture["x"] + picture["width"] / 2, abs=1)


def test_model_without_heat_maps_has_no_words_to_point_at(opened, small, photos):
    page = opened(small)
    add(page, photos[0])
    caption(page, photos[0])
    assert page.locator(".words [tabindex]").count() == 0
    assert page.get_by_text("Point at a word").count() == 0


def test_image_that_only_the_service_can_read_is_captioned(opened, small, photos, tmp_path):
    Image.open(photos[0]).save(tmp_path / "scan.tif")
    page = opened(small)
    add(page, tmp_path / "scan.tif")
    assert caption(page, tmp_path / "scan.tif")
    assert page.locator(".card figure svg").count() == 1  # no picture: the browser cannot


def test_phone_has_no_horizontal_scrolling(opened, attentive, photos, tmp_path):
    broken = tmp_path / f"{'long' * 20}.jpg"
    broken.write_bytes(b"")
    page = opened(attentive, width=360, height=740)
    fill(page, "Captions", "3")
    add(page, photos[0], photos[1], broken)
    failure(page, broken)
    caption(page, photos[1])
    assert page.evaluate("document.documentElement.scrollWidth") == 360


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_page_follows_the_scheme_of_the_reader(scheme, opened, small):
    page = opened(small, color_scheme=scheme)
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert background == {"light": "rgb(251, 250, 247)", "dark": "rgb(20, 21, 22)"}[scheme]


def test_page_is_used_by_keyboard_alone(opened, attentive, photos):
    page = opened(attentive)
    add(page, *photos[:2])
    caption(page, photos[1])
    page.evaluate("document.activeElement.blur()")
    reached = []
    for _ in range(6):
        page.keyboard.press("Tab")
        reached.append(page.evaluate("document.activeElement.textContent.trim()"))
    assert reached[:5] == [
        *("Choose images", "Use the camera", "Settings", "Download JSONL", "Remove all"),
    ]
    assert reached[5] == caption(page, photos[0]).split()[0]


@pytest.mark.row(29)
def test_html_in_names_and_in_captions_is_shown_as_text(opened, attentive, tmp_path, photos):
    """The vocabulary of a model is data too: a folder from elsewhere may hold any words."""
    markup = "<img src=x onerror=document.title='run'><script>document.title='run'</script>"
    hostile = tmp_path / "<img src=x onerror=document.title='run'>.jpg"
    hostile.write_bytes(photos[0].read_bytes())
    broken = tmp_path / "<b onmouseover=alert(1)>.jpg"
    broken.write_bytes(b"")
    answer = httpx.post(
        f"{attentive.url}/v1/caption",
        params={"captions": 2, "explain": "true"},
        content=photos[0].read_bytes(),
        timeout=60,
    ).json()
    for result in (answer["results"][0], *answer["results"][0]["captions"]):
        result["caption"] = markup
        for word in result["words"]:
            word["word"] = markup
    error = {"error": {"code": "broken_image", "message": f"{markup}: is broken"}}

    page = opened(attentive)
    title = page.title()
    page.route("**/v1/caption?**", lambda route: route.fulfill(json=answer))
    add(page, hostile)
    assert caption(page, hostile) == markup
    card(page, hostile).locator(".words li").first.hover()
    card(page, hostile).locator(".others summary").first.click()
    shown = card(page, hostile).inner_text()
    assert hostile.name in shown
    assert shown.count(markup) > 2
    page.unroute("**/v1/caption?**")
    page.route("**/v1/caption?**", lambda route: route.fulfill(json=error, status=422))
    add(page, broken)
    assert markup in failure(page, broken)
    page.wait_for_timeout(300)
    assert page.title() == title
    assert page.locator("main script, main b, main [onerror], main [src=x]").count() == 0
    alternatives = page.locator("main img").evaluate_all("(all) => all.map((each) => each.alt)")
    assert alternatives == [markup]


def test_setting_of_the_model_can_be_taken_away(opened, small, photos):
    """Leaving it out of the query would keep what the folder stores."""
    described = httpx.get(f"{small.url}/v1/model").json()
    described["decoding"]["no_repeat_ngram"] = 2

    def setup(page):
        page.route("**/v1/model", lambda route: route.fulfill(json=described))

    page = opened(small, setup=setup)
    sent = posts(page)
    fill(page, "No Repeat Ngram", "")
    page.wait_for_timeout(200)
    add(page, photos[0])
    assert caption(page, photos[0])
    assert all("no_repeat_ngram=null" in each.url for each in sent)


def test_seed_may_be_a_large_number(opened, small, photos):
    page = opened(small)
    sent = posts(page)
    fill(page, "Seed", "123456789")
    add(page, photos[0])
    assert caption(page, photos[0])
    assert "seed=123456789" in sent[-1].url
