"""The report is one self-contained file that shows all text as text, and is written atomically."""

import base64
import hashlib
import io
import json
import math
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image

from captioner.captions import Word
from captioner.data.streaming import MAX_PENDING
from captioner.errors import CaptionerError
from captioner.report import page
from captioner.report.build import check_report
from captioner.report.page import write_report

PACKAGE = Path(page.__file__).parents[1]
HOSTILE = "</script><img src=x onerror=alert(1)><!-- {{ entries }} {{ script }}"


class Elements(HTMLParser):
    """The tags of a page with their attributes, and the text of each script by its id."""

    def __init__(self, html):
        super().__init__()
        self.tags, self.scripts = [], {}
        self.feed(html)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, data):
        tag, attributes = self.tags[-1] if self.tags else (None, {})
        if tag == "script":
            self.scripts.setdefault(
                attributes.get("id"), data
            )  # what comes later stands after its end

    def entries(self):
        return json.loads(self.scripts["entries"])


@pytest.fixture
def written(tmp_path):
    """Write a report and read it again."""

    def write(*entries, title="Dogs", about=None, **extra):
        path = tmp_path / "report.html"
        write_report(path, iter(entries), title=title, about=about or {"model": "m"}, **extra)
        return Elements(path.read_text(encoding="utf-8"))

    return write


def test_the_page_loads_nothing(written, entry):
    elements = written(entry("a dog"))
    addresses = [
        value
        for _, attributes in elements.tags
        for name in ("src", "href")
        if (value := attributes.get(name))
    ]
    assert addresses == ["data:,"]  # the icon, which a browser would otherwise request
    parts = "".join(
        (page.files("captioner.report") / name).read_text()
        for name in ("base.css", "page.css", "page.html")
    )
    assert not re.search(r"https?:|url\(|@import", parts)


def test_the_page_forbids_every_request_and_every_script_but_its_own(written, entry):
    elements = written(entry("a dog"))
    policy = next(
        attributes["content"] for tag, attributes in elements.tags if "http-equiv" in attributes
    )
    digest = base64.b64encode(hashlib.sha256(elements.scripts[None].encode()).digest()).decode()
    assert policy.startswith("default-src 'none'")
    assert f"script-src 'sha256-{digest}'" in policy


def test_text_from_outside_stays_data(written, entry):
    quiet = written(entry("a dog", references=["a dog"], others=[("a cat", -4.0)]))
    dangerous = replace(
        entry(HOSTILE, references=[HOSTILE], others=[(HOSTILE, -4.0)]), name=HOSTILE
    )
    loud = written(dangerous, title=HOSTILE, about={HOSTILE: HOSTILE})
    assert [tag for tag, _ in loud.tags] == [tag for tag, _ in quiet.tags]
    assert loud.scripts[None] == quiet.scripts[None]
    [shown] = loud.entries()
    assert (shown["name"], shown["references"], shown["others"]) == (
        HOSTILE,
        [HOSTILE],
        [[HOSTILE, -4.0, None]],
    )
    assert json.loads(loud.scripts["report"])["title"] == HOSTILE


def test_each_photo_is_embedded_as_a_thumbnail_with_its_aspect_ratio(written, entry):
    elements = written(entry("wide", "wide.png", (1000, 500)), entry("tall", "tall.png", (30, 60)))
    for shown, size in zip(
        elements.entries(), [(page.THUMBNAIL_SIDE, page.THUMBNAIL_SIDE // 2), (30, 60)], strict=True
    ):
        with Image.open(io.BytesIO(base64.b64decode(shown["photo"]))) as picture:
            assert (picture.format, picture.size) == ("WEBP", size)
        assert (shown["width"], shown["height"]) == size


@pytest.mark.parametrize(
    ("text", "tokens", "shown"),
    [
        ("赤い犬。", "赤 い 犬 。", "赤+い+犬+。"),
        ("Ein Hund, klein", "ein hund , klein", "Ein Hund+, klein"),
        ("the man's dog doesn't", "the man 's dog does n't", "the man+'s dog does+n't"),
        ("a dog runs", "▁a ▁d og ▁runs", "a d+og runs"),
        ("¿Qué? ¡No!", "¿ Qué ? ¡ No !", "¿+Qué+? ¡+No+!"),
        ("another text", "a dog", "a dog"),
        ("", "dog", "dog"),
    ],
)
def test_the_words_of_a_caption_are_shown_as_its_text_has_them(written, entry, text, tokens, shown):
    words = [Word(token, -1.0, 0.5) for token in tokens.split()]
    [it] = written(entry(text, words=words)).entries()
    glue = ["+" if i in it["joined"] else " " for i in range(len(words))]
    pieces = [f"{mark}{word[0]}" for mark, word in zip(glue, it["words"], strict=True)]
    assert "".join(pieces).strip() == shown


def test_a_space_that_is_a_word_is_shown_once(written, entry):
    words = [Word(token, -1.0, 0.5) for token in ["ไ", "ป", " ", "ม", "า"]]
    [it] = written(entry("ไป มา", words=words)).entries()
    assert ([word[0] for word in it["words"]], it["joined"]) == (
        ["ไ", "ป", " ", "ม", "า"],
        [1, 3, 4],
    )


def test_the_folder_of_an_image_is_not_in_the_page(written, entry, tmp_path):
    assert str(tmp_path) not in written(entry("a dog")).scripts["entries"]


def test_an_unreadable_image_is_replaced_by_the_reason_and_others_are_shown(written, entry):
    good, broken, gone = entry("a dog", "1.png"), entry("a cat", "2.png"), entry("a cow", "3.png")
    broken.path.write_bytes(b"<html>")
    gone.path.unlink()
    shown = written(broken, good, gone).entries()
    assert ["photo" in one for one in shown] == [False, True, False]
    assert [one["problem"] for one in shown if "problem" in one] == [
        "not an image (looks like an HTML page)",
        "no such file",
    ]
    assert [one["words"][1][0] for one in shown] == ["cat", "dog", "cow"]


def test_a_heat_map_is_encoded_as_one_signed_byte_per_cell(written, entry):
    hot = Word("dog", -1.0, 0.5, heat=((4.0, 2.0, 0.0), (-2.0, -4.0, 1.0)))
    [[_, _, columns, heat]] = written(entry("", words=[hot])).entries()[0]["words"]
    cells = [byte - 256 if byte > 127 else byte for byte in base64.b64decode(heat)]
    assert columns == 3
    assert cells == [127, 64, 0, -64, -127, 32]


def test_occlusion_maps_of_a_caption_share_one_scale_with_a_minimum(written, entry):
    cold = Word("a", -1.0, 0.5, heat=((0.05, -0.05),))
    hot = Word("dog", -1.0, 0.5, heat=((1.0, 0.0),))
    [[*_, alone]] = written(entry("", words=[cold])).entries()[0]["words"]
    [[*_, beside], [*_, itself]] = written(entry("", words=[cold, hot])).entries()[0]["words"]
    assert list(base64.b64decode(alone)) == [25, 256 - 25]
    assert list(base64.b64decode(beside)) == [6, 256 - 6]
    assert list(base64.b64decode(itself)) == [127, 0]


def test_attention_maps_are_scaled_to_the_largest_weight_of_each_word(written, entry):
    around = Word("a", -1.0, 0.5, heat=((0.04, 0.02), *((0.02, 0.02),) * 23))
    there = Word("dog", -1.0, 0.5, heat=((0.5, 0.25), (0.25, 0.0)))
    [shown] = written(entry("", words=[around, there], explanation="attention")).entries()
    assert shown["explanation"] == "attention"
    [[*_, faint], [*_, sharp]] = shown["words"]
    assert list(base64.b64decode(faint)) == [127, *[64] * 47]
    assert list(base64.b64decode(sharp)) == [127, 64, 64, 0]


def test_without_a_calibrated_confidence_words_are_shaded_by_probability(written, entry):
    [[_, shade]] = written(entry("", words=[Word("dog", math.log(0.25))])).entries()[0]["words"]
    assert shade == 0.25


def test_a_cropped_photo_shows_the_crop_that_the_model_gets(written, entry):
    one = entry("wide", "wide.png", (160, 80), cropped=True)
    shown = written(one).entries()[0]
    assert shown["width"] == shown["height"] == 80


def test_scores_and_confidence_are_shown_times_100_and_non_finite_values_are_null(written, entry):
    shown = written(
        entry("a dog", scores={"CIDEr-D": 1.234}, confidence=0.25, log_prob=-math.inf),
        figures=[("CIDEr-D", 39.2, 36.4, 42.1), ("BLEU-4", 17.1, None, None)],
    )
    assert shown.entries()[0]["measures"] == {
        "CIDEr-D": 123.4,
        "confidence": 25.0,
        "log-probability": None,
    }
    assert json.loads(shown.scripts["report"])["figures"] == [
        ["CIDEr-D", 39.2, 36.4, 42.1],
        ["BLEU-4", 17.1, None, None],
    ]


def test_more_entries_than_are_prepared_in_advance_keep_their_order(written, entry):
    one = entry("a dog")
    names = [str(number) for number in range(MAX_PENDING + 3)]
    assert [
        shown["name"] for shown in written(*(replace(one, name=name) for name in names)).entries()
    ] == names


def test_the_random_order_is_the_same_in_every_report(written, entry):
    def lots(*names):
        return {
            shown["name"]: shown["lot"]
            for shown in written(*(entry("a dog", name) for name in names)).entries()
        }

    one, other = lots("1.png", "2.png"), lots("2.png", "3.png")
    assert one["2.png"] == other["2.png"]
    assert one["1.png"] != one["2.png"]


def test_a_report_without_entries_is_a_page(written):
    assert written().entries() == []


@pytest.mark.parametrize("failure", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_failed_report_keeps_the_old_file(tmp_path, entry, failure):
    path = tmp_path / "report.html"
    path.write_text("the old one")

    def failing():
        yield entry("a dog")
        raise failure

    with pytest.raises(CaptionerError if isinstance(failure, OSError) else KeyboardInterrupt):
        write_report(path, failing(), title="t", about={})
    assert path.read_text() == "the old one"
    assert sorted(file.name for file in tmp_path.iterdir()) == ["photos", "report.html"]


def test_a_missing_folder_is_named_in_the_error(tmp_path):
    path = tmp_path / "nowhere" / "report.html"
    with pytest.raises(
        CaptionerError, match=f"{path} cannot be written: No such file or directory; check"
    ):
        write_report(path, [], title="t", about={})


def test_another_caption_with_too_low_confidence_is_not_shown(written, entry):
    one = entry("a dog", others=[("a cat", -4.0), ("a cow", -5.0)])
    cat, cow = one.caption.others
    unsure = replace(one, caption=replace(one.caption, others=(replace(cat, abstained=True), cow)))
    assert [text for text, *_ in written(unsure).entries()[0]["others"]] == ["a cow"]


@pytest.mark.parametrize("sure", [True, False, None])
def test_the_page_knows_of_each_caption_whether_it_is_sure(written, entry, sure):
    one = entry("a dog", sure=sure, others=[("a cat", -4.0)])
    other = replace(one.caption.others[0], sure=not sure)
    shown = written(replace(one, caption=replace(one.caption, others=(other,)))).entries()[0]
    assert shown["sure"] is sure
    assert shown["others"] == [["a cat", -4.0, not sure]]


@pytest.mark.parametrize(
    "template", ["report/page.html", "report/alignment.html", "checkup/checkup.html"]
)
def test_every_page_may_be_replaced_by_another(template):
    check_report(PACKAGE / template)
