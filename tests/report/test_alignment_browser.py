"""The report of translations in a browser. Skipped without playwright and a Chromium."""

import math
import re

import pytest

from captioner.captions import Translation, Word
from captioner.config.schema import DecodingConfig
from captioner.report.alignment import TextEntry, report_translations

pytestmark = pytest.mark.slow

HOSTILE = "</script><img src=x onerror=alert(1)>"


def entry(line, source, words, rows=None, *, log_prob=-3.0, chrf=None, probability=0.25):
    """Make a text of which each word has the same probability."""
    translated = Translation(
        " ".join(words),
        tuple(Word(word, math.log(probability)) for word in words),
        log_prob,
        tuple(source),
        rows,
    )
    return TextEntry(line, " ".join(source), translated, chrf=chrf)


@pytest.fixture
def opened(chromium, tmp_path):
    """Write a report and open it; after the test, check its requests and its error messages."""
    path = tmp_path / "report.html"
    requests, messages, contexts = [], [], []

    def open_page(*entries, width=1280):
        report_translations(path, entries, models=[], decoding=DecodingConfig(), name=HOSTILE)
        contexts.append(chromium.new_context(viewport={"width": width, "height": 800}))
        page = contexts[-1].new_page()
        page.on("request", lambda request: requests.append(request.url))
        page.on("console", lambda message: messages.append(message.text))
        page.on("pageerror", lambda error: messages.append(str(error)))
        page.goto(path.as_uri())
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert requests == [path.as_uri()]
    assert messages == []


def dog(**numbers):
    return entry(1, ["a", "dog"], ["ein", "Hund"], ((0.8, 0.2), (0.0, 1.0)), **numbers)


def test_rows_are_generated_words_and_columns_are_source_tokens(opened):
    page = opened(dog())
    assert page.locator("thead th").all_text_contents() == ["a", "dog"]
    assert page.locator("tbody th").all_text_contents() == ["ein", "Hund"]
    assert page.locator("tbody td").all_text_contents() == ["80", "20", "", "100"]


def test_a_larger_weight_has_a_stronger_color(opened):
    page = opened(dog())
    colors = page.locator("tbody td").evaluate_all(
        "cells => cells.map(cell => getComputedStyle(cell).backgroundImage)"
    )
    first_colors = [re.findall(r"rgba?\((.*?)\)", color)[0].split(", ") for color in colors]
    alphas = [float([*parts, "1"][3]) for parts in first_colors]
    assert alphas == pytest.approx([0.8, 0.2, 0, 1], abs=0.01)


def test_hovering_over_a_cell_shows_its_weight_and_marks_its_row_and_column(opened):
    page = opened(dog())
    page.locator("tbody td").nth(1).hover()
    assert page.text_content(".readout") == "ein ← dog  20 %"
    assert page.locator("th.at").all_text_contents() == ["dog"]
    assert page.locator("tr.at th").all_text_contents() == ["ein"]
    page.locator("tbody th").nth(1).hover()
    assert page.text_content(".readout") == "Hund: probability 25 %"


def test_the_keyboard_reaches_every_cell_of_a_map_from_one_stop(opened):
    page = opened(dog(), entry(2, ["a"], ["ein"], ((1.0,),)))
    page.focus("[name=order]")
    page.keyboard.press("Tab")
    readout = page.locator(".readout").first
    assert readout.text_content() == "ein: probability 25 %"
    shown = []
    for key in ("ArrowRight", "ArrowDown", "ArrowRight", "ArrowRight", "ArrowUp"):
        page.keyboard.press(key)
        shown.append(readout.text_content())
    assert shown == [
        "ein ← a  80 %",
        "Hund ← a  0 %",
        "Hund ← dog  100 %",
        "Hund ← dog  100 %",  # there is nothing on the right
        "ein ← dog  20 %",
    ]
    page.keyboard.press("Tab")
    assert page.locator(".readout").nth(1).text_content() == "ein: probability 25 %"


def test_a_search_finds_parts_of_source_and_translation(opened):
    page = opened(dog(), entry(2, ["a", "cat"], ["eine", "Katze"]))
    for query, lines in (("DOG", ["1"]), ("atz", ["2"]), ("ein", ["1", "2"]), ("cow", [])):
        page.fill("[name=query]", query)
        assert page.locator(".source small").all_text_contents() == lines
    assert page.text_content("#count") == "0 of 2 texts"


def test_the_order_is_that_of_the_file_or_of_the_scores(opened):
    page = opened(
        entry(1, ["a"], ["ein"], log_prob=-2.0, chrf=0.9),
        entry(2, ["a"], ["ein"] * 9, log_prob=-5.0, chrf=0.1),
        entry(3, ["a"], ["ein"], log_prob=-4.0, chrf=0.5),
    )
    shown = {}
    for order in ("line", "unlikely", "worst", "best"):
        page.select_option("[name=order]", order)
        shown[order] = "".join(page.locator(".source small").all_text_contents())
    # -5 over nine tokens and <eos> is more for each of them than -2 over one
    assert shown == {"line": "123", "unlikely": "312", "worst": "231", "best": "132"}


def test_without_scores_no_order_by_scores_is_offered(opened):
    page = opened(dog())
    assert page.locator("[name=order] option").all_text_contents() == [
        "as in the file",
        "least likely first",
    ]


def test_hostile_text_is_shown_as_text(opened):
    page = opened(entry(1, [HOSTILE], [HOSTILE], ((1.0,),)))
    assert page.text_content(".text") == HOSTILE
    assert page.text_content("tbody th") == HOSTILE
    assert page.text_content("h1") == f"{HOSTILE}, 1 translation"


def test_a_token_that_is_a_space_is_visible(opened):
    page = opened(entry(1, ["a", " "], [" "], ((0.5, 0.5),)))
    assert page.locator("thead th").all_text_contents() == ["a", "␣"]


@pytest.mark.parametrize("width", [360, 1280])
def test_a_wide_map_scrolls_in_its_box_and_the_page_does_not(opened, width):
    wide = entry(1, ["dog"] * 90, ["Hund"], ((1 / 90,) * 90,))
    long = entry(2, ["x" * 200], ["y" * 200])
    page = opened(wide, long, width=width)
    assert page.evaluate("document.documentElement.scrollWidth") == width


def test_many_texts_are_shown_as_they_are_scrolled_to(opened):
    page = opened(*(entry(line, ["a"], ["ein"], ((1.0,),)) for line in range(1, 201)))
    before = page.locator(".card").count()
    assert before < 100
    page.evaluate("scrollTo(0, document.body.scrollHeight)")
    page.locator(".card").nth(before).wait_for()
