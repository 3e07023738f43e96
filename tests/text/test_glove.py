"""Files of word vectors: which vectors are read, and the errors that name the file and the line."""

import gzip

import pytest

from captioner.errors import UsageError
from captioner.text.glove import read_glove

LINES = "a 1 2 3\nzebra 9 9 9\ndog -0.5 1e-2 .25\n"


@pytest.fixture
def read(tmp_path):
    """Return a function that reads 'a', 'dog' and 'cat' from a file of the given content."""

    def call(content, name="vectors.txt", size=3):
        (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
        return read_glove(tmp_path / name, {"a", "dog", "cat"}, size=size)

    return call


def test_the_words_asked_for_are_read_and_no_others(read):
    assert read(LINES) == {"a": [1, 2, 3], "dog": [-0.5, 0.01, 0.25]}


@pytest.mark.parametrize(
    "same",
    [
        "3 3\n" + LINES,  # word2vec's header
        LINES.replace("\n", " \r\n"),
        LINES + "a b 7 7 7\ndog . dog 8 8 8\n",  # words with spaces are other words
        LINES
        # characters that Unicode treats as a space or as the end of a line
        + "a\N{NO-BREAK SPACE}dog 7 7 7\n\N{NEXT LINE} 7 7 7\n",
        LINES.rstrip(),
    ],
)
def test_other_ways_of_writing_the_file_change_nothing(read, same):
    assert read(same) == read(LINES)


def test_a_gzipped_file_is_unpacked(read):
    assert read(gzip.compress(LINES.encode()), "vectors.txt.gz") == read(LINES)


@pytest.mark.parametrize("header", ["", "3 3\n"])
def test_another_size_of_vectors_is_answered_with_the_setting_that_fits(read, header):
    with pytest.raises(
        UsageError, match=r"txt has vectors of 3 numbers, not of 512: set decoder.embed_size=3"
    ):
        read(header + LINES, size=512)


@pytest.mark.parametrize(
    "broken", ["a 1 2", "zebra 1 2", "a 1 2 3 4", "zebra 1 2 3 4", "a 1 2 x", "dog 1 2 nan", ""]
)
def test_a_line_that_is_no_vector_is_named(read, broken):
    with pytest.raises(
        UsageError, match=rf"vectors\.txt, line 4: '{broken}' is not a word with 3 numbers"
    ):
        read(LINES + broken + "\n" + LINES)


def test_a_file_that_is_not_utf_8_is_named_with_the_line(read):
    with pytest.raises(UsageError, match=r"vectors\.txt, line 4: this is not UTF-8 text"):
        read(LINES.encode() + "café 1 2 3\n".encode("latin-1"))


@pytest.mark.parametrize(
    "content",
    [b"", LINES.encode(), gzip.compress(LINES.encode())[:-9]],
    ids=["empty", "not compressed", "cut"],
)
def test_a_broken_gzip_file_is_named(read, content):
    with pytest.raises(UsageError, match=r"vectors\.gz"):
        read(content, "vectors.gz")


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(
        UsageError, match=r"none\.txt: cannot read word vectors: No such file.*training\.glove"
    ):
        read_glove(tmp_path / "none.txt", {"a"}, size=3)


def test_a_file_with_none_of_the_words_is_refused(read):
    with pytest.raises(UsageError, match="a vector for none of the words"):
        read("A 1 2 3\nDog 4 5 6\n")
