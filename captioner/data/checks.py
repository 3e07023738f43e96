"""Reading text and JSON strictly, and gathering what is wrong with a file so that it can be told at once."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from captioner.errors import UsageError

SHOWN = 20  # things named of each kind of problem


class Problems:
    """Gathers what is wrong with one file, so that it can be mended in one go."""

    def __init__(self, source: Path) -> None:
        self._source = source
        self._found: dict[str, list[str]] = defaultdict(list)

    def add(self, kind: str, things: Iterable[object]) -> None:
        """Note things that share a kind of problem; none is no problem."""
        for thing in things:
            self._found[kind].append(str(thing))

    def refuse(self) -> None:
        """Raise, if there is any problem, one `UsageError` that counts each kind and names the first things of it."""
        if self._found:
            total = sum(map(len, self._found.values()))
            lines = [f"{self._source}: {total:,} problem{'s' * (total > 1)}, so nothing was started:"]
            for kind, things in self._found.items():
                more = f" and {len(things) - SHOWN:,} more" if len(things) > SHOWN else ""
                lines.append(f"  {kind} ({len(things):,}): {', '.join(things[:SHOWN])}{more}")
            raise UsageError("\n".join(lines))


def read_text(path: Path) -> str:
    """Read UTF-8, with a byte order mark or without.

    Raises:
        UsageError: it cannot be read, is something other than UTF-8, or is empty.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise UsageError(f"{path}: {(error.strerror or 'cannot be read').lower()}") from error
    except UnicodeDecodeError as error:
        place = f"byte {error.start:,} is 0x{error.object[error.start]:02x}"
        raise UsageError(f"{path}: is not UTF-8 ({place}): save it as UTF-8") from error
    if not text.strip():
        raise UsageError(f"{path}: is empty")
    return text


def parse_json(text: str, path: Path, first_line: int = 1) -> Any:
    """Parse strict JSON: without NaN and Infinity, which Python lets pass. The text begins in `first_line` of the file.

    Raises:
        UsageError: it is broken: says where, and how.
    """
    constants: list[str] = []
    try:
        data = json.loads(text, parse_constant=constants.append)
        if constants:  # Python does not say where; a reading that stumbles over them does
            json.loads(re.sub("NaN|-?Infinity", lambda word: "?" * len(word[0]), text))
        return data
    except json.JSONDecodeError as error:
        reason = f"{constants[0]} is not JSON" if constants else error.msg
        place = f"line {first_line + error.lineno - 1}, column {error.colno}"
        raise UsageError(f"{path}: broken JSON in {place}: {reason}") from error
    except (ValueError, RecursionError) as error:  # a number of thousands of digits, thousands of brackets
        raise UsageError(f"{path}: JSON that cannot be read, from line {first_line} on: {error}") from error
