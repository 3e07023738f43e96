"""The page of a check shows the result as text and makes no requests."""

import re
from html.parser import HTMLParser

import pytest

from captioner.checkup.output import histogram

HOSTILE = "</li><script>alert(1)</script><img src=x onerror=alert(1)>"


class Page(HTMLParser):
    """All tags with their attributes, and the text of the page."""

    def __init__(self, html):
        super().__init__()
        self.tags, self.text = [], ""
        self.feed(html)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, data):
        self.text += data


@pytest.fixture
def page(run, data_set, tmp_path):
    """Check the data set and read the page."""

    def check():
        run("check", data_set.write(), "--html", tmp_path / "page.html")
        return Page((tmp_path / "page.html").read_text(encoding="utf-8"))

    return check


def test_the_page_lists_problems_and_draws_histograms(page, data_set):
    data_set.caption("train", 1, "two dogs run fast")
    data_set.image("train", 9, "gone.jpg", b"")
    shown = page()
    assert "1 problem" in shown.text
    assert "'gone.jpg'" in shown.text
    labels = [attributes["aria-label"] for tag, attributes in shown.tags if tag == "svg"]
    assert labels == [
        "histogram of captions per image: from 1 to 2",
        "histogram of words per caption: from 3 to 4",
    ]


def test_the_page_makes_no_requests_and_runs_no_scripts(page):
    shown = page()
    policy = next(
        attributes["content"] for tag, attributes in shown.tags if "http-equiv" in attributes
    )
    assert policy.startswith("default-src 'none'")
    assert "script" not in policy
    assert [
        value
        for _, attributes in shown.tags
        for value in (attributes.get("src"), attributes.get("href"))
        if value
    ] == ["data:,"]


def test_names_and_captions_are_escaped(page, data_set):
    data_set.image("train", 9, HOSTILE, b"")
    data_set.caption("train", 1, HOSTILE + " very" * 40 + " \ud800")
    shown = page()
    assert {"script", "img"}.isdisjoint(tag for tag, _ in shown.tags)
    assert (
        shown.text.count("<script>alert(1)</script>") == 3
    )  # a missing image, and a caption that is too long and has a wrong encoding


@pytest.mark.parametrize(
    "counts", [{1: 5, 3: 2}, {n: n for n in range(1, 1000)}, {1: 1, 20000: 1}, {0: 3}]
)
def test_a_histogram_counts_every_value_once(counts):
    titles = re.findall(r"<title>(.*?) words: ([\d,]+)</title>", histogram(counts, "words"))
    assert sum(int(count.replace(",", "")) for _, count in titles) == sum(counts.values())
    assert len(titles) <= 41
