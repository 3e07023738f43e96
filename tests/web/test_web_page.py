"""The page in a browser captions as the library does, stays responsive and talks to nobody.

Skipped without Playwright, Chromium and a folder of onnxruntime-web, which CAPTIONER_ORT names.
"""

import base64
import io
import re

import numpy as np
import pytest
from browsing import wait_until
from PIL import Image
from web_page import CAT, add, as_base64, caption, card, fill

from captioner import Captioner
from captioner.data.images import read_image

pytestmark = pytest.mark.slow


def test_captions_and_confidences_equal_those_of_the_library(opened, examples):
    captioner = Captioner.from_pretrained(device="cpu")
    expected = {
        name: captioner.caption(path, decoding={"captions": 3}) for name, path in examples.items()
    }
    page = opened()
    page.get_by_text("Settings", exact=True).click()
    fill(page, "Captions", "3")
    add(page, *examples.values())
    for name, one in expected.items():
        item = card(page, f"{name}.jpg")
        assert caption(page, f"{name}.jpg") == one.text
        assert f"{round(100 * one.confidence)} % confident" in item.locator(".verdict").inner_text()
        assert ("Unsure" in item.locator(".verdict").inner_text()) is not one.sure
        words = item.locator(".body > .words li").evaluate_all(
            "(items) => items.map((item) => [item.textContent, item.dataset.value])"
        )
        assert words == [[word.text, f"{round(100 * word.confidence)} %"] for word in one.words]
        others = item.locator(".others summary").all_inner_texts()
        assert [re.sub(r" \(\d+ %\)$", "", text) for text in others] == [
            other.text for other in one.others
        ]


def _encoded(image, file_format, **options):
    file = io.BytesIO()
    image.save(file, file_format, **options)
    return file.getvalue()


def _images(examples):
    """Yield files whose pixels a browser could read in another way."""
    noise = np.random.default_rng(1).integers(0, 256, (64, 80, 4), dtype=np.uint8)
    cat = Image.open(examples["cat"])
    yield from (path.read_bytes() for path in examples.values())
    yield _encoded(Image.fromarray(noise), "PNG")  # transparency of all degrees
    yield _encoded(Image.fromarray(noise[..., :3]).quantize(16), "GIF")
    yield _encoded(cat, "WEBP")
    yield _encoded(cat.convert("L"), "JPEG")
    yield _encoded(cat.convert("CMYK"), "JPEG")
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        yield _encoded(cat, "JPEG", exif=exif)


def test_decoded_pixels_equal_those_of_the_library(opened, examples):
    page = opened(wait=False)
    for content in _images(examples):
        width, height, data = page.evaluate(
            """async (data) => {
              const { decode } = await import("./decode.js");
              const bytes = Uint8Array.from(atob(data), (char) => char.charCodeAt(0));
              const { pixels } = await decode(new Blob([bytes]));
              let text = "";
              for (const byte of pixels.data) text += String.fromCharCode(byte);
              return [pixels.width, pixels.height, btoa(text)];
            }""",
            as_base64(content),
        )
        pixels = np.frombuffer(base64.b64decode(data), np.uint8).reshape(height, width, 4)
        np.testing.assert_array_equal(pixels[..., :3], np.asarray(read_image(content)))


def test_changed_settings_caption_the_images_again(opened, examples):
    page = opened()
    add(page, examples["cat"])
    assert caption(page, "cat.jpg") == CAT
    page.get_by_text("Settings", exact=True).click()
    page.get_by_text("More settings").click()
    fill(page, "Forbid", "cat, table")
    page.locator(".card .text").filter(has_not_text=CAT).wait_for()
    expected = Captioner.from_pretrained(device="cpu").caption(
        examples["cat"], decoding={"forbid": ["cat", "table"]}
    )
    page.locator(".card .text", has_text=expected.text).wait_for()
    page.get_by_role("button", name="Reset to the model's defaults").click()
    page.locator(".card .text", has_text=CAT).wait_for()


@pytest.mark.parametrize(
    ("label", "value", "message"),
    [
        ("Beam", "0", "greater than or equal to 1"),
        ("Captions", "1000000", "less than or equal to 100"),
        ("Prefix", "a zyzzyva", "prefix: “zyzzyva” is not a word that this model knows"),
        ("Min Length", "30", "min_length (30) is above max_length (20)"),
    ],
)
def test_wrong_setting_is_explained_and_not_used(label, value, message, opened, examples):
    page = opened()
    page.get_by_text("Settings", exact=True).click()
    page.get_by_text("More settings").click()
    fill(page, label, value)
    page.locator("form .error", has_text=message).wait_for()
    add(page, examples["cat"])
    assert caption(page, "cat.jpg") == CAT


def test_settings_are_those_of_the_model(opened):
    page = opened()
    page.get_by_text("Settings", exact=True).click()
    page.get_by_text("More settings").click()
    decoding = Captioner.from_pretrained(device="cpu").config.decoding
    assert page.get_by_label("Beam", exact=True).input_value() == str(decoding.beam)
    assert page.get_by_label("No Repeat Words").is_checked() == decoding.no_repeat_words
    assert page.get_by_text("Number of beams; 1 is greedy.").is_visible()


def test_worker_cannot_reach_another_host(opened, serve, tmp_path):
    page = opened()
    [worker] = page.workers
    # Another port is another origin; without a policy, this mode of fetch reaches any.
    outcome = worker.evaluate(
        """(url) => fetch(url, { mode: "no-cors" }).then(() => "sent", () => "refused")""",
        serve(tmp_path),
    )
    assert outcome == "refused"


def test_page_stays_responsive_while_it_captions(opened, examples):
    page = opened()
    page.evaluate(
        """() => {
          window.longest = 0;
          let last = performance.now();
          const tick = (now) => {
            window.longest = Math.max(window.longest, now - last);
            last = now;
            requestAnimationFrame(tick);
          };
          requestAnimationFrame(tick);
        }"""
    )
    add(page, *examples.values())
    caption(page, "raft.jpg")
    assert page.evaluate("window.longest") < 500


def test_pictures_leave_no_object_url_behind(opened, examples):
    page = opened(
        setup=lambda page: page.add_init_script(
            """window.held = new Set();
               const { createObjectURL, revokeObjectURL } = URL;
               URL.createObjectURL = (blob) => {
                 const url = createObjectURL.call(URL, blob);
                 window.held.add(url);
                 return url;
               };
               URL.revokeObjectURL = (url) => {
                 window.held.delete(url);
                 revokeObjectURL.call(URL, url);
               };"""
        )
    )
    add(page, examples["cat"], examples["raft"])
    caption(page, "raft.jpg")
    wait_until(page, "window.held.size === 0")
    assert page.locator(".card img").first.evaluate("(image) => image.naturalWidth") > 0


@pytest.mark.parametrize(
    ("setup", "message"),
    [
        (
            lambda page: page.add_init_script("delete globalThis.WebAssembly"),
            "WebAssembly is switched off or missing",
        ),
        (
            lambda page: page.context.route(
                "**/step.onnx", lambda route: route.fulfill(body="short")
            ),
            "step.onnx has another size than in site.json",
        ),
    ],
)
def test_model_that_cannot_be_loaded_is_explained(setup, message, opened):
    page = opened(wait=False, setup=setup)
    page.locator("#status", has_text=message).wait_for()
    assert page.get_by_role("button", name="Try again").is_visible()


def test_loading_can_be_tried_again(opened):
    page = opened(
        wait=False,
        setup=lambda page: page.context.route("**/graphs.json", lambda route: route.abort()),
    )
    page.locator("#status", has_text="check the connection").wait_for()
    page.context.unroute("**/graphs.json")
    page.get_by_role("button", name="Try again").click()
    page.locator("body[data-ready]").wait_for(timeout=60_000)
    opened.messages.clear()  # the browser reports the failed request
