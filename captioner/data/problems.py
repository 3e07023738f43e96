"""Gathering what is wrong with a data set, kind by kind, so that all of it can be told at once. Reads nothing."""

from __future__ import annotations

import codecs
import json
import logging
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from captioner.errors import UsageError

SHOWN = 20  # things named of each kind of problem

logger = logging.getLogger("captioner")


@dataclass
class Problem:
    """One kind of thing that is wrong, and every thing it concerns, once."""

    kind: str
    grave: bool  # nothing is started with it; else it is left out or cut, as the kind says
    things: dict[str, None] = field(default_factory=dict)  # a set that keeps its order

    @property
    def examples(self) -> list[str]:
        """The first twenty."""
        return list(islice(self.things, SHOWN))

    def __str__(self) -> str:
        more = f" and {len(self.things) - SHOWN:,} more" if len(self.things) > SHOWN else ""
        return f"{self.kind} ({len(self.things):,}): {', '.join(self.examples)}{more}"


class Problems:
    """Gathers what is wrong with one file, so that it can be mended in one go. Iterating gives each kind of problem."""

    def __init__(self, source: object) -> None:
        self.source = source
        self._found: dict[str, Problem] = {}

    def __iter__(self) -> Iterator[Problem]:
        return iter(self._found.values())

    @property
    def grave(self) -> list[Problem]:
        """Those that nothing may be started with."""
        return [problem for problem in self if problem.grave]

    def add(self, kind: str, things: Iterable[object]) -> None:
        """Note things that share a kind of problem; none is no problem."""
        self._note(kind, things, grave=True)

    def tolerate(self, kind: str, things: Iterable[object]) -> None:
        """Note things that are left out or cut, as `kind` says, without stopping anything."""
        self._note(kind, things, grave=False)

    def _note(self, kind: str, things: Iterable[object], *, grave: bool) -> None:
        noted = dict.fromkeys(map(str, things))
        if noted:
            self._found.setdefault(kind, Problem(kind, grave)).things.update(noted)

    def refuse(self) -> None:
        """Raise, if anything is grave, one `UsageError` that counts each kind and names the first things of it.

        A single kind takes a single line. What is tolerated goes to the log.
        """
        for problem in self:
            if not problem.grave:
                logger.warning("%s: %s: %s", self.source, problem.kind, f"{len(problem.things):,}")
        if grave := self.grave:
            total = sum(len(problem.things) for problem in grave)
            lines = [
                f"{self.source}: {total:,} problems, so nothing was started:",
                *(f"  {it}" for it in grave),
            ]
            raise UsageError(f"{self.source}: {grave[0]}" if len(grave) == 1 else "\n".join(lines))


NOT_TEXT = re.compile("[\udc80-\udcff]")  # what bytes that are not UTF-8 are read as
UTF_16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


class BrokenJSONError(ValueError):
    """Its text is the place and the reason: `line 2, column 12: Expecting value`."""


def read_text(path: Path) -> str:
    """Read UTF-8, with a byte order mark or without.

    Raises:
        UsageError: it cannot be read, is something other than UTF-8, or is empty.
    """
    problems = Problems(path)
    text = read_bytes_as_text(path, problems)
    problems.refuse()
    return text


def read_bytes_as_text(path: Path, problems: Problems) -> str:
    """Read what should be UTF-8, noting each line with other bytes, which become lone surrogates.

    Raises:
        UsageError: it cannot be read, is UTF-16, or is empty.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UsageError(f"{path}: {(error.strerror or 'cannot be read').lower()}") from error
    if data.startswith(UTF_16):
        raise UsageError(
            f"{path}: is UTF-16, not UTF-8 (byte 0 is 0x{data[0]:02x}): save it as UTF-8"
        )
    text = data.decode("utf-8-sig", "surrogateescape")
    if not text.strip():
        raise UsageError(f"{path}: is empty")
    if NOT_TEXT.search(text):
        problems.add("lines to be saved as UTF-8, which they are not", _places(text))
    return text


def _places(text: str) -> Iterator[str]:
    """Name the first byte of each line that is not UTF-8."""
    for number, line in enumerate(text.split("\n"), 1):
        if found := NOT_TEXT.search(line):
            yield f"line {number}, column {found.start() + 1} is 0x{ord(found[0]) - 0xDC00:02x}"


def parse_json(text: str, first_line: int = 1) -> Any:
    """Parse strict JSON: without NaN and Infinity, which Python lets pass. The text begins in `first_line` of its file.

    Raises:
        BrokenJSONError: says where, and how.
    """
    constants: list[str] = []
    try:
        data = json.loads(text, parse_constant=constants.append)
        if constants:  # Python does not say where; a reading that stumbles over them does
            json.loads(re.sub("NaN|-?Infinity", lambda word: "?" * len(word[0]), text))
        return data
    except json.JSONDecodeError as error:
        reason = f"{constants[0]} is not JSON" if constants else error.msg
        raise BrokenJSONError(
            f"line {first_line + error.lineno - 1}, column {error.colno}: {reason}"
        ) from error
    except (
        ValueError,
        RecursionError,
    ) as error:  # a number of thousands of digits, thousands of brackets
        raise BrokenJSONError(
            f"line {first_line}: cannot be read from there on: {error}"
        ) from error
