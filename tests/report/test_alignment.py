"""The report of translations: one self-contained file with heat maps, which shows text as text."""

import base64
import json
import math
import re
from html.parser import HTMLParser

import pytest

from captioner.captions import Translation, Word
from captioner.config.schema import DecodingConfig
from captioner.inference.evaluate_text import score_text
from captioner.report import alignment
from captioner.report.alignment import TextEntry, report_text_evaluation, report_translations

HOSTILE = "</script><img src=x onerror=alert(1)><!-- {{ entries }} {{ script }}"


class Scripts(HTMLParser):
    """The text of each script of a page by its id, and the addresses in the page."""

    def __init__(self, html):
        super().__init__()
        self.open, self.texts, self.addresses = None, {}, []
        self.feed(html)

    def handle_starttag(self, tag, attributes):
        self.open = dict(attributes).get("id", "code") if tag == "script" else None
        self.addresses += [value for name, value in attributes if name in ("src", "href")]

    def handle_data(self, data):
        if self.open:
            self.texts[self.open] = data

    def handle_endtag(self, tag):
        self.open = None


def translation(words, source, alignment=None, others=()):
    return Translation(
        " ".join(words),
        tuple(Word(word, math.log(0.5)) for word in words),
        -3.0,
        tuple(source),
        alignment,
        tuple(Translation(text, (), log_prob) for text, log_prob in others),
    )


@pytest.fixture
def written(tmp_path):
    """Write a report and read it again."""

    def write(*entries):
        path = tmp_path / "report.html"
        settings = DecodingConfig()
        report_translations(path, entries, models=[], decoding=settings, name="test.en")
        return Scripts(path.read_text(encoding="utf-8"))

    return write


def test_the_page_loads_nothing(written):
    page = written(TextEntry(1, "a dog", translation(["ein", "Hund"], ["a", "dog"])))
    assert page.addresses == ["data:,"]  # the icon, which a browser would otherwise request
    assert not re.search(r"https?:|url\(|@import", page.texts["code"])


def test_text_from_outside_is_in_the_json_only_and_cannot_end_it(written):
    entry = TextEntry(1, HOSTILE, translation([HOSTILE], [HOSTILE]), [HOSTILE])
    page = written(entry)
    [shown] = json.loads(page.texts["entries"])
    assert (shown["text"], shown["translation"]) == (HOSTILE, HOSTILE)
    assert (shown["source"], shown["references"]) == ([HOSTILE], [HOSTILE])


def test_attention_weights_are_bytes_row_by_row(written):
    rows = ((0.75, 0.25), (0.0, 1.0), (0.5, 0.5))
    entry = TextEntry(7, "a dog", translation(["ein", "Hund", "."], ["a", "dog"], rows))
    [shown] = json.loads(written(entry).texts["entries"])
    assert list(base64.b64decode(shown["weights"])) == [191, 64, 0, 255, 128, 128]
    assert shown["words"] == [["ein", 0.5], ["Hund", 0.5], [".", 0.5]]
    assert shown["line"] == 7


def test_without_attention_there_is_no_heat_map(written):
    [shown] = json.loads(written(TextEntry(1, "a", translation(["ein"], ["a"]))).texts["entries"])
    assert "weights" not in shown
    assert "skipped" not in shown


def test_a_heat_map_that_would_stall_a_browser_is_replaced_by_its_size(written, monkeypatch):
    monkeypatch.setattr(alignment, "MAX_CELLS", 3)
    rows = ((0.5, 0.5), (0.5, 0.5))
    [shown] = json.loads(
        written(TextEntry(1, "a dog", translation(["ein", "Hund"], ["a", "dog"], rows))).texts[
            "entries"
        ]
    )
    assert shown["skipped"] == "The heat map has 2 × 2 cells and is not drawn."
    assert "weights" not in shown


def test_other_translations_are_listed_with_their_log_probabilities(written):
    entry = TextEntry(1, "a", translation(["ein"], ["a"], others=[("eine", -4.5)]))
    [shown] = json.loads(written(entry).texts["entries"])
    assert shown["others"] == [["eine", -4.5]]
    assert shown["logProb"] == -3.0


def test_the_report_of_an_evaluation_has_scores_with_intervals_and_the_chrf_of_each_text(tmp_path):
    references = [["ein Hund"], ["eine Katze", "die Katze"]]
    translations = [translation(["ein", "Hund"], ["a", "dog"]), translation(["ein"], ["a", "cat"])]
    evaluation = score_text([each.text for each in translations], references)
    path = tmp_path / "report.html"
    report_text_evaluation(
        path,
        ["a dog", "a cat"],
        translations,
        evaluation,
        models=[],
        decoding=DecodingConfig(),
        name="test.en",
    )
    page = Scripts(path.read_text(encoding="utf-8"))
    report, shown = json.loads(page.texts["report"]), json.loads(page.texts["entries"])
    assert [entry["chrf"] for entry in shown] == [
        pytest.approx(100 * score, abs=1e-3) for score in evaluation.sentence_chrf
    ]
    assert shown[0]["chrf"] == 100
    assert [entry["references"] for entry in shown] == references
    low, high = (100 * bound for bound in evaluation.intervals["exact"])
    assert report["figures"]["exact match"] == f"50.0 ({low:.1f} – {high:.1f})"
    assert report["about"]["signatures"] == evaluation.signature_lines
