"""Errors that the user can fix: each message names what is wrong, why, and the way out.

The command line prints these on one line and exits with `exit_code`. Any other exception is a bug
and keeps its traceback.
"""

from __future__ import annotations

from collections.abc import Sequence

MAX_NAMED = 5
MAX_SHOWN = 200  # characters of a wrong value in a message
PARAMETER_MARK = "\0"  # around the name of a parameter; no file name contains it


def parameter(name: str) -> str:
    """Return the name of a Python parameter, marked: the command line shows its option instead."""
    return f"{PARAMETER_MARK}{name}{PARAMETER_MARK}"


def first_few(items: Sequence[object]) -> str:
    """Return the first items as a message shows them: "1, 2, 3, 4, 5, ..."."""
    return ", ".join([*map(str, items[:MAX_NAMED]), *(["..."] if len(items) > MAX_NAMED else [])])


def shown(value: object) -> str:
    """Return a value as Python writes it, cut if it is long."""
    try:
        text = repr(value)
    except ValueError:  # Python writes no integer of more than 4,300 digits
        return "a number of thousands of digits"
    return text if len(text) <= MAX_SHOWN else f"{text[:20]}... ({len(text):,} characters)"


def summarize(items: Sequence[object], noun: str) -> str:
    """Return the number of items and the first few: "7 images (1, 2, 3, 4, 5, ...)"."""
    return f"{len(items)} {noun}{'' if len(items) == 1 else 's'} ({first_few(items)})"


class CaptionerError(Exception):
    """An error that the user can fix: a message of one line, or a short list, and no traceback.

    The message names Python parameters; the command line replaces those marked by `parameter`.
    """

    exit_code = 1

    def __init__(self, message: str) -> None:
        super().__init__(message.replace(PARAMETER_MARK, ""))
        self.marked_message = message


class UsageError(CaptionerError):
    """A wrong argument, config or annotation file. Nothing was started."""

    exit_code = 2


class MissingPackageError(CaptionerError, ImportError):
    """A package that is not installed, what needs it, and how to install it."""


class ImageError(CaptionerError):
    """An image that cannot be read: its name and the reason. Other images are not affected."""

    exit_code = 3

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(f"{name}: {reason}")
        self.name = name
        self.reason = reason

    def __reduce__(self) -> tuple[type[ImageError], tuple[str, str]]:
        """Return both arguments: a pickled error, as from a worker, keeps only its message."""
        return ImageError, (self.name, self.reason)
