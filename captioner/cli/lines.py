"""The lines of a file, of stdin or of a terminal, in the groups in which they arrive."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext, suppress
from pathlib import Path
from typing import Protocol, cast

from captioner.console import console, stdin_bytes
from captioner.data.lines import Line, first_line, read_line
from captioner.data.parallel import STDIN
from captioner.errors import UsageError

PROMPT = "> "
_BLOCK = 2**20  # bytes that are read at a time, at most


class ByteStream(Protocol):
    """A buffered binary stream, such as `sys.stdin.buffer`."""

    def read1(self, size: int, /) -> bytes:
        """Return what can be read at once; nothing at the end of the stream."""


def open_lines(path: Path) -> AbstractContextManager[ByteStream]:
    """Open a text file, or stdin for `-`.

    Raises:
        UsageError: the file cannot be read, or stdin is closed.
    """
    if str(path) == STDIN:
        return nullcontext(cast(ByteStream, stdin_bytes()))
    try:
        return path.open("rb")
    except OSError as error:
        raise UsageError(f"{path}: {(error.strerror or 'cannot be read').lower()}") from error


def is_interactive(path: Path) -> bool:
    """Return whether lines come from somebody who types them."""
    return str(path) == STDIN and sys.stdin.isatty()


def read_groups(stream: ByteStream, name: object) -> Iterator[list[Line]]:
    """Yield the lines of a stream in groups: those that have arrived when the next is asked for.

    So a program that writes one line to a pipe gets its answer at once, and a long file is read in
    large groups. A line ends with LF or CR LF. A line with other bytes than UTF-8, or with a NUL
    character, has a problem in place of a text.

    Raises:
        UsageError: the text is UTF-16, or its lines end with CR alone.
    """
    number = 0
    unfinished: list[bytes] = []  # the parts of the last line, whose end has not arrived
    while block := stream.read1(_BLOCK):
        *complete, rest = block.split(b"\n")
        if not complete:
            unfinished.append(block)
            continue
        complete[0] = b"".join([*unfinished, complete[0]])
        unfinished = [rest]
        if not number:
            complete[0] = first_line(complete[0], name)
        yield [read_line(data, number + place) for place, data in enumerate(complete, 1)]
        number += len(complete)
    if last := b"".join(unfinished):
        yield [read_line(last if number else first_line(last, name), number + 1)]


def prompt_groups() -> Iterator[list[Line]]:
    """Yield each line that somebody types, after a prompt, until the end of the input (Ctrl-D)."""
    with suppress(ImportError):  # not on Windows
        import readline  # noqa: F401  # `input` then has a history, and the arrow keys edit
    sys.stdin.reconfigure(errors="surrogateescape")  # type: ignore[union-attr]
    number = 0
    while True:
        try:
            text = _prompt()
        except EOFError:
            console.print()  # what comes next starts a line of its own
            return
        number += 1
        yield [read_line(text.encode("utf-8", "surrogateescape"), number)]


def _prompt() -> str:
    """Return the next line that is typed."""
    if sys.stdout.isatty():
        return input(PROMPT)
    # `input` would write the prompt to the file or pipe that stdout is
    console.print(PROMPT, end="")
    return input()
