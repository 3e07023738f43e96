"""What can go wrong through no fault of the code: each error names the thing, the reason and the way out.

The command line prints these as one line and exits with `exit_code`; everything else is a bug and keeps its traceback.
"""

from collections.abc import Sequence

NAMED = 5


def first_few(things: Sequence[object]) -> str:
    """Name the first things of many, as messages do: "1, 2, 3, 4, 5, ..."."""
    return ", ".join([*map(str, things[:NAMED]), *(["..."] if len(things) > NAMED else [])])


def listed(things: Sequence[object], noun: str) -> str:
    """Count things and name the first few: "7 images (1, 2, 3, 4, 5, ...)"."""
    return f"{len(things)} {noun}{'' if len(things) == 1 else 's'} ({first_few(things)})"


class CaptionerError(Exception):
    """Something the user can mend: the message is one line (or a short list) and needs no traceback."""

    exit_code = 1


class UsageError(CaptionerError):
    """Wrong usage, config or annotation file: nothing was started."""

    exit_code = 2


class ImageError(CaptionerError):
    """One image that cannot be read. Names the image and the reason; the others are not affected."""

    exit_code = 3

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(f"{name}: {reason}")
        self.name = name
        self.reason = reason

    def __reduce__(self) -> tuple[type["ImageError"], tuple[str, str]]:
        """Worker processes send their errors home by pickle, which would otherwise forget the second argument."""
        return ImageError, (self.name, self.reason)
