"""The page by keyboard, with a screen reader, on a phone, and in light and dark.

Skipped without Playwright, Chromium and a folder of onnxruntime-web, which CAPTIONER_ORT names.
"""

import pytest
from web_page import CAT, add, caption, failure, fill

pytestmark = pytest.mark.slow


def test_alt_text_is_copied(opened, examples):
    page = opened(permissions=["clipboard-read", "clipboard-write"])
    add(page, examples["cat"])
    caption(page, "cat.jpg")
    button = page.get_by_role("button", name="Copy alt text")
    button.click()
    page.get_by_text("Copied", exact=True).wait_for()
    assert page.evaluate("navigator.clipboard.readText()") == CAT
    assert page.get_by_role("img", name=CAT).count() == 1  # the picture itself has it too


def test_examples_are_captioned_and_removed_by_keyboard(opened):
    page = opened()
    page.get_by_role("button", name="Caption the example cat.jpg").focus()
    page.keyboard.press("Enter")
    assert caption(page, "cat.jpg") == CAT
    for _ in range(30):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.textContent") == "Remove":
            break
    page.keyboard.press("Enter")
    assert page.locator(".card").count() == 0
    assert page.evaluate("document.activeElement.id") == "choose"


def test_every_control_is_reached_by_tab_in_the_order_of_the_page(opened, examples):
    page = opened()
    add(page, examples["cat"])
    caption(page, "cat.jpg")
    page.evaluate("document.activeElement.blur()")
    reached = []
    for _ in range(14):
        page.keyboard.press("Tab")
        reached.append(page.evaluate("document.activeElement.textContent.trim()"))
    assert reached == [
        *("Choose images", "Use the camera", *[""] * 8, "Settings"),
        *("Copy alt text", "Remove"),
        reached[-1],  # out of the page
    ]


def test_screen_reader_is_told_of_captions_and_failures(opened, examples, tmp_path):
    (tmp_path / "paper.pdf").write_bytes(b"%PDF-1.7\n")
    page = opened()
    add(page, tmp_path / "paper.pdf", examples["cat"])
    caption(page, "cat.jpg")
    said = page.locator("[aria-live=polite]").inner_text()
    assert "2 images added" in said
    assert "paper.pdf has no caption: not an image" in said
    assert f"cat.jpg: {CAT}, unsure" in said
    for control in page.locator("button:visible, input:visible, select:visible").all():
        assert control.evaluate("(node) => node.innerText || node.ariaLabel || node.labels?.length"
                                " || node.querySelector('img')?.alt")  # fmt: skip


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_has_enough_contrast(scheme, opened, examples, tmp_path):
    (tmp_path / "paper.pdf").write_bytes(b"%PDF-1.7\n")
    page = opened(color_scheme=scheme)
    page.get_by_text("Settings", exact=True).click()
    page.get_by_text("More settings").click()
    add(page, tmp_path / "paper.pdf", examples["cat"], examples["raft"])
    caption(page, "raft.jpg")
    assert page.evaluate(CONTRAST) == []
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (background == "rgb(251, 250, 247)") is (scheme == "light")


CONTRAST = """() => {
  const parse = (color) => color.match(/[\\d.]+/g).map(Number);
  const luminance = (color) => {
    const [r, g, b] = parse(color).map((value) => value / 255)
      .map((value) => (value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const backgroundOf = (node) => {
    const color = getComputedStyle(node).backgroundColor;
    return parse(color)[3] === 0 ? backgroundOf(node.parentElement) : color;
  };
  const low = [];
  for (const node of document.querySelectorAll("body *")) {
    const isText = [...node.childNodes].some((child) => child.nodeType === 3 && child.data.trim());
    if (!isText || !node.checkVisibility()) continue;
    const both = [luminance(getComputedStyle(node).color), luminance(backgroundOf(node))];
    const [dark, light] = both.sort((a, b) => a - b);
    const ratio = (light + 0.05) / (dark + 0.05);
    if (ratio < 4.5) low.push(`${node.textContent.trim()}: ${ratio}`);
  }
  return low;
}"""


def test_phone_has_no_horizontal_scrolling(opened, examples, tmp_path):
    broken = tmp_path / f"{'long' * 20}.jpg"
    broken.write_bytes(b"")
    page = opened(width=360, height=740)
    page.get_by_text("Settings", exact=True).click()
    page.get_by_text("More settings").click()
    fill(page, "Captions", "5")
    add(page, examples["camera"], broken)
    failure(page, broken.name)
    page.locator(".others summary").first.click()
    assert page.evaluate("document.documentElement.scrollWidth") == 360
