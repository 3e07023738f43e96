"""A line of text: from bytes to characters, and what is wrong with one that cannot be read.

All readers of text by line use these functions. A line ends with LF or CR LF, and with no other
character: U+2028 is in the middle of many lines from the web.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from captioner.data.problems import LINES_NOT_UTF_8, refuse_utf_16
from captioner.errors import UsageError

_BOM = b"\xef\xbb\xbf"


class LineProblem(NamedTuple):
    """Why a line cannot be read: as a kind of problem of many lines, and of this one alone."""

    kind: str  # "lines not in UTF-8, to be saved as UTF-8"
    reason: str  # "not UTF-8 (column 4 is 0xe9): save it as UTF-8"
    place: str = ""  # "column 4 is 0xe9"


class Line(NamedTuple):
    """A line: its text, or the problem for which it cannot be read."""

    number: int
    text: str
    problem: LineProblem | None = None


def split_lines(data: bytes, name: object) -> Iterator[Line]:
    """Yield the lines of a file `name`; the last one need not have an end.

    Raises:
        UsageError: as `first_line`.
    """
    lines = data.split(b"\n")
    lines[0] = first_line(lines[0], name)
    if not lines[-1]:  # the last line has an end, as is usual, or there is none
        lines.pop()
    return (read_line(line, number) for number, line in enumerate(lines, 1))


def first_line(line: bytes, name: object) -> bytes:
    """Return the first line of a file `name` without its byte order mark.

    Raises:
        UsageError: the file is UTF-16, or its lines end with CR alone.
    """
    refuse_utf_16(line, name)
    if b"\r" in line.rstrip(b"\r"):
        raise UsageError(f"{name}: its lines end with CR alone: save it with LF or CR LF")
    return line.removeprefix(_BOM)


def read_line(line: bytes, number: int) -> Line:
    """Return a line without its end; bytes other than UTF-8 and NUL characters are problems."""
    text = line.removesuffix(b"\r")
    try:
        decoded = text.decode("utf-8")
    except UnicodeDecodeError as error:
        column = len(text[: error.start].decode("utf-8")) + 1
        place = f"column {column} is 0x{text[error.start]:02x}"
        reason = f"not UTF-8 ({place}): save it as UTF-8"
        return Line(number, "", LineProblem(LINES_NOT_UTF_8, reason, place))
    if "\0" in decoded:
        kind = "lines with a NUL character: this is no text file"
        return Line(number, "", LineProblem(kind, "has a NUL character: it is no text"))
    return Line(number, decoded)
