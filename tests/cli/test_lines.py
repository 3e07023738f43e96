"""Lines of a stream: their ends, what cannot be read, and when they arrive."""

import io
import os
from pathlib import Path

import pytest

from captioner.cli.lines import open_lines, read_groups
from captioner.data.lines import Line, split_lines
from captioner.data.parallel import read_lines
from captioner.errors import UsageError
from captioner.results.files import read_results


def texts(data):
    return [line.text for group in read_groups(io.BytesIO(data), "x") for line in group]


class Blocks:
    """A stream that yields these blocks, one at a time."""

    def __init__(self, *blocks):
        self.blocks = list(blocks)

    def read1(self, size):
        return self.blocks.pop(0) if self.blocks else b""


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", []),
        (b"a", ["a"]),
        (b"a\n", ["a"]),
        (b"a\r\n\r\nb", ["a", "", "b"]),
        (b"\n\n", ["", ""]),
        ("a\u2028b\x85c\n".encode(), ["a\u2028b\x85c"]),
        (b"\xef\xbb\xbfa\n\xef\xbb\xbfb\n", ["a", "\ufeffb"]),
        (b"\xef\xbb\xbfa", ["a"]),
    ],
)
def test_a_line_ends_with_lf_or_cr_lf_and_the_last_one_need_not(data, expected):
    assert texts(data) == expected


def test_a_line_may_arrive_in_parts_even_of_a_character():
    whole = "größe\nä".encode()
    for cut in range(1, len(whole)):
        stream = Blocks(whole[:cut], whole[cut:])
        lines = [line for group in read_groups(stream, "x") for line in group]
        assert lines == [Line(1, "größe"), Line(2, "ä")]


def test_lines_come_in_the_groups_in_which_they_arrive():
    stream = Blocks(b"a\nb\nc", b"d", b"\n", b"e\n")
    groups = [[line.text for line in group] for group in read_groups(stream, "x")]
    assert groups == [["a", "b"], ["cd"], ["e"]]


def test_a_line_of_a_pipe_arrives_before_the_next_is_written():
    reader, writer = os.pipe()
    with os.fdopen(reader, "rb") as stream, os.fdopen(writer, "wb", buffering=0) as pipe:
        groups = read_groups(stream, "x")
        for number, text in enumerate(["a", "b"], 1):
            pipe.write(f"{text}\n".encode())
            assert next(groups) == [Line(number, text)]


def test_bytes_that_are_no_utf_8_and_nul_cost_only_their_own_line():
    data = b"a\nb\xffc\nd\0\n\xc3"
    [group, rest] = read_groups(io.BytesIO(data), "x")
    assert [(line.number, line.text, line.problem and line.problem.reason) for line in group] == [
        (1, "a", None),
        (2, "", "not UTF-8 (column 2 is 0xff): save it as UTF-8"),
        (3, "", "has a NUL character: it is no text"),
    ]
    [last] = rest
    assert (last.number, last.text) == (4, "")
    assert last.problem.reason == "not UTF-8 (column 1 is 0xc3): save it as UTF-8"


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
def test_utf_16_is_named_and_not_read(encoding):
    with pytest.raises(UsageError, match=r"x: is UTF-16, not UTF-8 .*: save it as UTF-8"):
        texts("\ufeffa\n".encode(encoding))


@pytest.mark.parametrize("data", [b"a\rb\rc\r", b"a\rb\rc", b"a\rb\r\n", b"\xef\xbb\xbfa\rb"])
def test_lines_that_end_with_cr_alone_are_not_read_as_one(data):
    for cut in range(len(data)):
        with pytest.raises(UsageError, match=r"^x: its lines end with CR alone"):
            list(read_groups(Blocks(*filter(None, [data[:cut], data[cut:]])), "x"))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"a",
        b"a\r",
        b"\n\n",
        b"a\r\n b \nc",
        b"a\nb\rc\n",
        b"\xef\xbb\xbfa\n\xef\xbb\xbfb\n",
        b"a\nb\xffc\nd\0\n\xc3",
        "gr\xf6\xdfe\u2028\x85\n".encode(),
        b"a\rb\n",
        b"\xff\xfea\0",
    ],
)
def test_a_stream_and_a_file_read_whole_have_the_same_lines_and_problems(data):
    def read(lines):
        try:
            return list(lines())
        except UsageError as error:
            return str(error)

    def streamed():
        return [line for group in read_groups(io.BytesIO(data), "x") for line in group]

    assert read(streamed) == read(lambda: split_lines(data, "x"))


def test_a_missing_file_and_a_folder_are_named(tmp_path):
    with pytest.raises(UsageError, match=r"nothing\.txt: no such file or directory"):
        open_lines(tmp_path / "nothing.txt")
    with pytest.raises(UsageError, match=f"{tmp_path}: is a directory"):
        open_lines(tmp_path)


@pytest.mark.parametrize("read", [open_lines, read_lines, read_results])
def test_a_stdin_that_the_shell_has_closed_is_an_error_with_a_way_out(monkeypatch, read):
    monkeypatch.setattr("sys.stdin", None)
    with pytest.raises(UsageError, match=r"^stdin is closed: name a file$"):
        read(Path("-"))
