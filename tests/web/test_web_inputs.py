"""Every way to give the page an image works, and what cannot be read is explained.

Skipped without Playwright, Chromium and a folder of onnxruntime-web, which CAPTIONER_ORT names.
"""

import pytest
from browsing import wait_until
from PIL import Image
from web_page import CAT, TO_FILE, add, as_base64, caption, failure

pytestmark = pytest.mark.slow


def test_pasted_image_is_captioned(opened, examples):
    page = opened()
    data = {"data": as_base64(examples["cat"].read_bytes()), "name": "a.jpg", "type": "image/jpeg"}
    page.evaluate(
        f"""(data) => {{
          const clipboardData = new DataTransfer();
          clipboardData.items.add(({TO_FILE})(data));
          const options = {{ clipboardData, bubbles: true }};
          document.body.dispatchEvent(new ClipboardEvent("paste", options));
        }}""",
        data,
    )
    assert caption(page, "a.jpg") == CAT


def test_pasted_text_is_no_image(opened):
    page = opened(wait=False)
    page.evaluate(
        """() => document.body.dispatchEvent(new ClipboardEvent("paste",
             { clipboardData: new DataTransfer(), bubbles: true }))"""
    )
    assert "the clipboard holds no image" in page.get_by_role("alert").first.inner_text()


def test_dropped_images_are_captioned_in_their_order(opened, examples):
    page = opened()
    files = [
        {"data": as_base64(examples[name].read_bytes()), "name": name, "type": "image/jpeg"}
        for name in ("raft", "cat")
    ]
    page.evaluate(
        f"""(files) => {{
          const dataTransfer = new DataTransfer();
          files.forEach((file) => dataTransfer.items.add(({TO_FILE})(file)));
          const options = {{ dataTransfer, bubbles: true, cancelable: true }};
          document.body.dispatchEvent(new DragEvent("dragover", options));
          document.body.dispatchEvent(new DragEvent("drop", options));
        }}""",
        files,
    )
    assert caption(page, "cat") == CAT
    assert page.locator(".card .name").all_inner_texts() == ["raft", "cat"]


IS_SWITCHED_OFF = """async (track) => {
  for (let waited = 0; track.readyState !== "ended" && waited < 5000; waited += 20) {
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
  return track.readyState === "ended";
}"""


def test_camera_takes_a_picture_and_is_switched_off(opened):
    page = opened(permissions=["camera"])
    page.get_by_role("button", name="Use the camera").click()
    wait_until(page, "document.querySelector('video').videoWidth > 0")
    track = page.evaluate_handle("document.querySelector('video').srcObject.getTracks()[0]")
    assert track.evaluate("(track) => track.readyState") == "live"
    page.get_by_role("button", name="Take the picture").click()
    assert caption(page, "camera 1.jpg")
    assert track.evaluate(IS_SWITCHED_OFF)
    assert page.get_by_role("dialog").count() == 0


def test_escape_switches_the_camera_off(opened):
    page = opened(wait=False, permissions=["camera"])
    page.get_by_role("button", name="Use the camera").click()
    page.get_by_role("dialog").wait_for()
    track = page.evaluate_handle("document.querySelector('video').srcObject.getTracks()[0]")
    page.keyboard.press("Escape")
    page.get_by_role("dialog").wait_for(state="detached")
    assert track.evaluate(IS_SWITCHED_OFF)


def _without_camera(error):
    return lambda page: page.add_init_script(
        f"""navigator.mediaDevices.getUserMedia =
              () => Promise.reject(new DOMException("", "{error}"))"""
    )


@pytest.mark.parametrize(
    ("setup", "message"),
    [
        (None, "the camera is not allowed on this page"),  # Chromium without a person denies it
        (_without_camera("NotFoundError"), "no camera was found"),
        (_without_camera("NotReadableError"), "another program uses the camera"),
        (
            lambda page: page.add_init_script("delete Navigator.prototype.mediaDevices"),
            "https pages and localhost only",
        ),
    ],
)
def test_camera_that_cannot_be_used_is_explained(setup, message, opened):
    page = opened(wait=False, setup=setup)
    page.get_by_role("button", name="Use the camera").click()
    page.locator("#notice", has_text=message).wait_for()


UNREADABLE = {
    "empty.jpg": (b"", "is empty"),
    "cut.png": (b"\x89PNG\r\n\x1a\n" + bytes(40), "truncated or corrupt"),
    "paper.pdf": (b"%PDF-1.7\n", "looks like a PDF document"),
    "phone.heic": (b"\0\0\0\x24ftypheic" + bytes(40), "a HEIC photo"),
    "page.html": (b"<!DOCTYPE html><p>", "looks like an HTML page"),
    "drawing.svg": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "an SVG drawing"),
    "scan.tif": (b"II*\0" + bytes(40), "a TIFF image"),
    "notes.txt": (b"a dog", "not an image in a format that this browser reads"),
}


def test_unreadable_files_name_the_reason_and_stop_no_other(opened, examples, tmp_path):
    for name, (content, _) in UNREADABLE.items():
        (tmp_path / name).write_bytes(content)
    page = opened()
    add(page, *(tmp_path / name for name in UNREADABLE), examples["cat"])
    for name, (_, reason) in UNREADABLE.items():
        shown = failure(page, name)
        assert shown.startswith(f"{name}: ")
        assert reason in shown
        assert shown.count(": ") >= 2  # what, why, and the way out
    assert caption(page, "cat.jpg") == CAT


def test_image_of_too_many_pixels_is_refused(opened, tmp_path):
    Image.new("1", (10_000, 5_001)).save(tmp_path / "huge.png")
    page = opened()
    add(page, tmp_path / "huge.png")
    assert "10,000 x 5,001 pixels, the limit is 50,000,000" in failure(page, "huge.png")


def test_name_of_a_file_is_shown_as_text(opened, examples, tmp_path):
    hostile = tmp_path / "<img src=x onerror=alert(1)>.jpg"
    hostile.write_bytes(examples["cat"].read_bytes())
    page = opened()
    add(page, hostile)
    assert caption(page, hostile.name) == CAT
    assert page.locator(".name").inner_text() == hostile.name


def test_images_may_come_before_the_model(opened, examples):
    page = opened(wait=False)
    add(page, examples["cat"])
    page.get_by_text("Waiting for the model").wait_for()
    assert caption(page, "cat.jpg") == CAT
