"""Results on stdout; messages on stderr."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import (
    AbstractContextManager,
    ExitStack,
    contextmanager,
    nullcontext,
    redirect_stdout,
    suppress,
)
from typing import BinaryIO, TextIO, cast

from rich.console import Console

from captioner.errors import CaptionerError, UsageError

console = Console(stderr=True, highlight=False, soft_wrap=True)


class ClosedOutputError(SystemExit):
    """The reader of stdout has gone, as `head` does: the program ends, and that is no failure."""

    def __init__(self) -> None:
        super().__init__(0)


class OutputError(CaptionerError):
    """Stdout cannot be written, for example because the disk is full."""


class _CheckedStdout:
    """A stdout that takes every character, and reports what goes wrong as the errors above."""

    encoding = "utf-8"  # of what `write` accepts: typer would write to the bytes below otherwise

    def __init__(self, stream: TextIO | None) -> None:
        self._stream = stream or open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
        self._error: OutputError | ClosedOutputError | None = None
        if stream is None:
            self._error = OutputError("stdout is closed: redirect it to a file, or leave it open")

    def __getattr__(self, name: str) -> object:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Write a text. Characters that the encoding of stdout lacks are escaped, as in \\xe9."""
        if not isinstance(text, str):  # typer tries bytes, to see what the stream takes
            raise TypeError("stdout takes text")
        if text:  # typer tests a stream by writing nothing to it, and ignores errors
            encoding = self._stream.encoding or "utf-8"
            shown = text.encode(encoding, "backslashreplace").decode(encoding)
            self._attempt(lambda: self._stream.write(shown))
        return len(text)

    def flush(self) -> None:
        """Write what is in the buffer."""
        self._attempt(self._stream.flush)

    def _attempt(self, write: Callable[[], object]) -> None:
        """Call `write`. After the first failure, raise its error again."""
        if self._error is None:
            try:
                write()
                return
            except BrokenPipeError:
                self._error = ClosedOutputError()
            except OSError as error:
                self._error = OutputError(
                    f"stdout cannot be written: {error.strerror or error}; "
                    "free some space or redirect it to another disk"
                )
            _silence(self._stream)
        raise self._error


class _CheckedStderr:
    """A stderr whose failure ends no run: without a reader, messages are dropped."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> object:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        try:
            self._stream.write(text)
        except OSError:
            _silence(self._stream)
        return len(text)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except OSError:
            _silence(self._stream)


def _silence(stream: TextIO) -> None:
    """Drop all further output of a stream, also what Python flushes when it ends."""
    with suppress(OSError, ValueError):  # a stream without a file
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, stream.fileno())
        os.close(null)


@contextmanager
def program(name: str, *, describe: Callable[[CaptionerError], str] = str) -> Iterator[None]:
    """Run a program, which is the block: its output is safe, and its errors are one line.

    On stdout, characters that its encoding lacks are escaped. If its reader goes away, the program
    ends with exit code 0, as ripgrep does; if it cannot be written, that is an error. A stderr that
    fails is ignored. `print_results` completes the files of a command first.

    Args:
        name: of the program; the line of an error begins with it.
        describe: return the message of an error.

    Raises:
        SystemExit: with the code of a CaptionerError, after printing it on stderr.
    """
    stdout, stderr = sys.stdout, sys.stderr
    sys.stdout = cast(TextIO, _CheckedStdout(stdout))
    if stderr is not None:  # None: closed by the shell
        sys.stderr = cast(TextIO, _CheckedStderr(stderr))
    try:
        try:
            yield
        except SystemExit:  # how typer ends
            sys.stdout.flush()
            raise
        sys.stdout.flush()  # Python reports no error of its own flush in one line
    except CaptionerError as error:
        if stderr is not None:
            print(f"{name}: {describe(error)}", file=sys.stderr)
        sys.exit(error.exit_code)
    finally:
        with suppress(CaptionerError, ClosedOutputError):
            sys.stdout.flush()  # after an error; if this fails, the stream is silenced
        sys.stdout, sys.stderr = stdout, stderr


def stdin_bytes() -> BinaryIO:
    """Return stdin as a stream of bytes.

    Raises:
        UsageError: the shell has closed it.
    """
    if sys.stdin is None:
        raise UsageError("stdin is closed: name a file")
    return sys.stdin.buffer


@contextmanager
def print_results(*, files: bool) -> Iterator[Callable[[str], None]]:
    """Yield a function that prints a line of results on stdout at once.

    Args:
        files: whether the block writes files too. If stdout fails, the block then goes on without
            it, and the error is raised at its end; a reader that has gone is no error.

    Raises:
        OutputError: stdout cannot be written.
    """
    failure: OutputError | None = None

    def print_line(text: str) -> None:
        nonlocal failure
        try:
            print(text, flush=True)
        except ClosedOutputError:
            if not files:
                raise
        except OutputError as error:
            if not files:
                raise
            failure = error

    yield print_line
    if failure:
        raise failure


@contextmanager
def only_our_messages() -> Iterator[None]:
    """Drop, within the block, stdout and what libraries write to stderr past Python."""
    stderr = sys.stderr
    with ExitStack() as stack:
        null = stack.enter_context(open(os.devnull, "w", encoding="utf-8"))
        stack.enter_context(redirect_stdout(null))
        if stderr is not None:
            stderr.flush()
        own = os.dup(2)
        stack.callback(os.close, own)
        with suppress(OSError, ValueError, AttributeError):  # a stream without a file
            if stderr.fileno() == 2:
                copy = open(own, "w", buffering=1, errors="backslashreplace", closefd=False)  # noqa: SIM115
                sys.stderr = cast(TextIO, _CheckedStderr(copy))
        stack.callback(setattr, sys, "stderr", stderr)
        stack.callback(os.dup2, own, 2)
        os.dup2(null.fileno(), 2)
        yield


def loading(what: str) -> AbstractContextManager[object]:
    """Say on a terminal, while the block runs, that something is loaded; then erase it."""
    return console.status(f"loading {what}") if console.is_terminal else nullcontext()


@contextmanager
def quiet_console(*, quiet: bool = True) -> Iterator[None]:
    """Print no messages and show no progress bars within the block, if `quiet`."""
    was_quiet = console.quiet
    console.quiet = was_quiet or quiet
    try:
        yield
    finally:
        console.quiet = was_quiet


def one_line(text: object) -> str:
    """Return the text for one line of a terminal, with spaces for control characters."""
    return "".join(letter if letter.isprintable() else " " for letter in str(text))
