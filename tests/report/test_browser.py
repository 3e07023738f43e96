"""The report in a browser. Skipped without the Python package playwright and a Chromium."""

from dataclasses import replace

import pytest
from PIL import Image

from captioner.captions import Word
from captioner.report.page import write_report

pytestmark = pytest.mark.slow

HOSTILE = "</script><img src=x onerror=alert(1)>"
MANY = 1000


@pytest.fixture
def opened(chromium, tmp_path):
    """Write a report and open it; after the test, check its requests and its error messages."""
    path = tmp_path / "report.html"
    requests, messages, contexts = [], [], []

    def open_page(*entries, width=1280, height=800, **extra):
        write_report(path, entries, title=f"Dogs {HOSTILE}", about={"model": HOSTILE}, **extra)
        contexts.append(
            chromium.new_context(viewport={"width": width, "height": height}, has_touch=True)
        )
        page = contexts[-1].new_page()
        page.on("request", lambda request: requests.append(request.url))
        page.on("console", lambda message: messages.append(message.text))
        page.on("pageerror", lambda error: messages.append(str(error)))
        page.on("dialog", lambda dialog: messages.append(dialog.message))
        page.goto(path.as_uri())
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert requests == [path.as_uri()]
    assert messages == []


@pytest.fixture
def three(entry):
    heat = [[0.0, 1.0], [0.0, -1.0]]
    return [
        entry("a dog runs", "1.png", scores={"CIDEr-D": 0.9}, references=["two dogs run"]),
        entry("a cat sits", "2.png", scores={"CIDEr-D": 0.1}, references=["a dog sits"]),
        entry(
            "",
            "3.png",
            words=[Word("birds", -1.0, 0.25, heat)],
            scores={"CIDEr-D": 0.5},
            references=["a bird"],
            explanation="occlusion",
        ),
    ]


def names(page):
    return page.locator(".card .name").all_text_contents()


def test_a_search_keeps_the_images_whose_chosen_texts_have_the_words(opened, three):
    page = opened(*three)
    shown = {}
    for where in ("caption", "references", "either", "missed", "invented", "name"):
        page.select_option("[name=where]", where)
        page.fill("[name=query]", "2" if where == "name" else "dog")
        shown[where] = sorted(names(page))
    assert shown == {
        "caption": ["1.png"],
        "references": ["1.png", "2.png"],
        "either": ["1.png", "2.png"],
        "missed": ["2.png"],
        "invented": [],
        "name": ["2.png"],
    }
    page.click("text=Show all")
    assert page.text_content("#count") == "3 images"


def test_the_order_is_by_score_or_by_name(opened, three):
    page = opened(*three)
    assert names(page) == ["1.png", "3.png", "2.png"]
    page.check("[value=worst]")
    assert names(page) == ["2.png", "3.png", "1.png"]
    page.check("[value=name]")
    assert names(page) == ["1.png", "2.png", "3.png"]
    page.check("[value=random]")
    assert sorted(names(page)) == ["1.png", "2.png", "3.png"]


def test_a_click_on_a_bin_keeps_its_images_and_a_second_click_shows_all(opened, three):
    page = opened(*three)
    bins = page.locator("#bins button")
    bins.last.click()
    assert names(page) == ["1.png"]
    bins.last.click()
    assert len(names(page)) == 3
    bins.first.focus()
    page.keyboard.press("Enter")
    assert names(page) == ["2.png"]
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    assert names(page) == []
    assert page.text_content("#count") == "0 of 3 images"


def test_dragging_over_bins_and_typing_a_range_filter_the_same_images(opened, three):
    page = opened(*three)
    first, last = (page.locator("#bins button").nth(index).bounding_box() for index in (5, -1))
    page.mouse.move(first["x"] + 2, first["y"] + 20)
    page.mouse.down()
    page.mouse.move(last["x"] + 2, last["y"] + 20, steps=30)
    page.mouse.up()
    assert names(page) == ["1.png", "3.png"]
    page.fill("[name=low]", "")
    page.fill("[name=high]", "50")  # below 50
    assert names(page) == ["2.png"]


@pytest.mark.parametrize("way", ["hover", "tap", "keys"])
def test_pointing_at_a_word_shows_its_confidence_and_its_heat_map(opened, three, way):
    page = opened(three[2])
    word, canvas = page.locator(".caption .word"), page.locator(".photo canvas")
    assert canvas.is_hidden()
    if way == "keys":
        page.focus("[name=high]")
        page.keyboard.press("Tab")
    else:
        getattr(word, way)()
    assert canvas.is_visible()
    assert page.text_content(".readout") == "birds  25 %"
    read = "c => Array.from(c.getContext('2d').getImageData(0, 0, c.width, c.height).data)"
    pixels = canvas.evaluate(read)
    red_green_blue_alpha = [pixels[4 * cell : 4 * cell + 4] for cell in range(4)]
    (_, positive, _, negative) = red_green_blue_alpha
    assert [pixel[3] > 0 for pixel in red_green_blue_alpha] == [False, True, False, True]
    assert positive[0] > positive[2]
    assert negative[2] > negative[0]


def test_only_unsure_captions_are_marked(opened, entry):
    page = opened(
        entry("a dog", "1.png", sure=False), entry("a cat", "2.png", sure=True), entry("a cow")
    )
    marked = page.locator(".card:has(.unsure)")
    assert marked.locator(".caption").all_text_contents() == ["a dog unsure"]


@pytest.mark.parametrize(
    ("explanation", "expected"),
    [
        (None, []),
        (
            "occlusion",
            [
                "if a part in this color is hidden, the log-probability of the word falls, "
                "in this color it rises"
            ],
        ),
        (
            "attention",
            [
                "the attention weights of a word sum to 1, "
                "and the largest one is shown at full strength"
            ],
        ),
    ],
)
def test_the_legend_explains_the_heat_maps_of_the_page(opened, entry, explanation, expected):
    word = Word("birds", -1.0, 0.25, heat=((0.75, 0.25),) if explanation else None)
    page = opened(entry("", words=[word], explanation=explanation))
    legend = [
        " ".join(text.split()) for text in page.locator("#legend p:visible").all_text_contents()
    ]
    assert [
        text.partition(": ")[2].rstrip(".") for text in legend[1:]
    ] == expected  # the first paragraph explains the shading


def test_hostile_text_is_shown_as_text(opened, entry):
    page = opened(
        replace(entry("", words=[Word(HOSTILE, -1.0, 0.5)], references=[HOSTILE]), name=HOSTILE)
    )
    assert names(page) == [HOSTILE]
    assert page.locator(".caption .word").text_content() == HOSTILE
    assert page.text_content("h1") == f"Dogs {HOSTILE}"


def test_without_references_it_opens_with_the_confidence(opened, entry):
    page = opened(entry("a dog", "1.png", confidence=0.2), entry("a cat", "2.png", confidence=0.7))
    assert names(page) == ["2.png", "1.png"]
    assert page.locator("[name=measure] option").all_text_contents() == [
        "confidence",
        "log-probability",
    ]
    assert page.locator("#figures").is_hidden()
    assert page.locator("[name=where] option").all_text_contents() == [
        "in the caption",
        "in the file name",
    ]


def test_a_value_that_is_not_finite_is_shown_as_a_dash_and_sorted_last(opened, entry):
    undefined = entry("a dog", "1.png", scores={"CIDEr-D": float("nan")}, log_prob=float("-inf"))
    page = opened(
        undefined,
        entry("a cat", "2.png", scores={"CIDEr-D": 0.0}),
        figures=[("CIDEr-D", float("nan"), None, None)],
    )
    for order in ("best", "worst"):
        page.check(f"[value={order}]")
        assert names(page) == ["2.png", "1.png"]
    assert page.locator(".card").last.locator("dd").all_text_contents() == ["–", "–"]
    assert page.text_content("#figures b") == "–"
    page.fill("[name=low]", "0")
    assert names(page) == ["2.png"]


def test_a_report_without_images_shows_the_number_0(opened):
    assert opened().text_content("#count") == "0 images"


@pytest.mark.parametrize("width", [360, 390, 768, 1280])
def test_nothing_is_wider_than_the_screen(opened, entry, width):
    long = "x" * 200
    figures = [("CIDEr-D", 139.2, 136.4, 142.1)]
    page = opened(
        replace(entry(f"{long} dog", references=[long], scores={"CIDEr-D": 0.5}), name=long),
        width=width,
        figures=figures,
        facts={long: long},
    )
    assert page.evaluate("document.documentElement.scrollWidth") == width


def test_a_thousand_images_are_shown_as_they_are_scrolled_to(opened, entry):
    one = entry("a dog runs")
    Image.effect_noise((80, 60), 50).resize((640, 480)).save(one.path)  # as many bytes as a photo
    page = opened(*(replace(one, name=str(number)) for number in range(MANY)))
    milliseconds = page.evaluate("performance.getEntriesByType('navigation')[0].loadEventEnd")
    megabytes = page.evaluate("document.documentElement.outerHTML.length") / 1e6
    print(f"\n{MANY:,} images, {megabytes:.1f} MB: opened in {milliseconds / 1000:.2f} s")
    assert page.text_content("#count") == "1,000 images"
    before = len(names(page))
    assert before < 100
    page.evaluate("scrollTo(0, document.body.scrollHeight)")
    page.locator(".card").nth(before).wait_for()
