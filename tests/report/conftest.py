"""Entries for the tests of reports."""

import pytest
from PIL import Image

from captioner.captions import Caption, Word
from captioner.report.page import ReportEntry


@pytest.fixture
def entry(tmp_path):
    """Make an entry with a small photo: `entry("a dog runs", references=[...])`."""
    folder = tmp_path / "photos"
    folder.mkdir()

    def make(
        text,
        name="dog.png",
        size=(40, 30),
        *,
        words=None,
        log_prob=-3.0,
        confidence=None,
        sure=None,
        others=(),
        explanation=None,
        **fields,
    ):
        Image.new("RGB", size, "green").save(folder / name)
        words = tuple(words or (Word(word, -1.0, 0.5) for word in text.split()))
        further = tuple(Caption(other, (), score) for other, score in others)
        caption = Caption(
            text, words, log_prob, confidence, sure, others=further, explanation=explanation
        )
        return ReportEntry(name, folder / name, caption, **fields)

    return make
