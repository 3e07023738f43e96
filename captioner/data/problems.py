"""Collect the problems of a data set by kind; read text and JSON, and check the records in it."""

from __future__ import annotations

import codecs
import json
import logging
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from captioner.errors import UsageError

MAX_EXAMPLES = 20  # of each kind of problem, in messages and reports

logger = logging.getLogger("captioner")


@dataclass
class Problem:
    """One kind of problem with all of its cases, each once."""

    kind: str
    is_error: bool  # training cannot start; the `kind` of a warning states the effect
    cases: dict[str, None] = field(default_factory=dict)  # used as an ordered set

    @property
    def examples(self) -> list[str]:
        """Return the first `MAX_EXAMPLES` cases."""
        return list(islice(self.cases, MAX_EXAMPLES))

    def __str__(self) -> str:
        hidden = len(self.cases) - MAX_EXAMPLES
        more = f" and {hidden:,} more" if hidden > 0 else ""
        return f"{self.kind} ({len(self.cases):,}): {', '.join(self.examples)}{more}"


class Problems:
    """The problems of one source, such as a file, collected so that the user can fix all at once.

    Iterating yields one `Problem` for each kind.
    """

    def __init__(self, source: object) -> None:
        self.source = source
        self._by_kind: dict[str, Problem] = {}

    def __iter__(self) -> Iterator[Problem]:
        return iter(self._by_kind.values())

    @property
    def errors(self) -> list[Problem]:
        """Return the problems that prevent training."""
        return [problem for problem in self if problem.is_error]

    def add_error(self, kind: str, cases: Iterable[object]) -> None:
        """Record cases that prevent training. Without cases, nothing is recorded."""
        self._add(kind, cases, is_error=True)

    def add_warning(self, kind: str, cases: Iterable[object]) -> None:
        """Record cases that do not stop training; `kind` states whether they are dropped."""
        self._add(kind, cases, is_error=False)

    def _add(self, kind: str, cases: Iterable[object], *, is_error: bool) -> None:
        new = dict.fromkeys(map(str, cases))
        if new:
            self._by_kind.setdefault(kind, Problem(kind, is_error)).cases.update(new)

    def raise_errors(self, way_out: str = "") -> None:
        """Log the warnings, and raise the errors as one `UsageError`: with counts and examples.

        The message has one line for a single kind of error, else one line for each kind. It ends
        with the way out, if one is given.

        Raises:
            UsageError: at least one error was recorded.
        """
        for problem in self:
            if not problem.is_error:
                logger.warning("%s: %s", self.source, problem)
        errors = self.errors
        if len(errors) == 1:
            end = f"; {way_out}" if way_out else ""
            raise UsageError(f"{self.source}: {errors[0]}{end}")
        if errors:
            total = sum(len(problem.cases) for problem in errors)
            lines = [f"{total:,} problems, so nothing was started:", *map(str, errors)]
            lines += [way_out] if way_out else []
            raise UsageError(f"{self.source}: " + "\n  ".join(lines))


def repeated(values: Iterable[object]) -> list[str]:
    """Return the values that occur more than once, as cases."""
    return [repr(value) for value, count in Counter(values).items() if count > 1]


NOT_UTF_8 = re.compile("[\udc80-\udcff]")  # how Python's "surrogateescape" decodes such bytes
LINES_NOT_UTF_8 = "lines not in UTF-8, to be saved as UTF-8"  # a kind of problem


def read_text(path: Path, problems: Problems | None = None) -> str:
    """Read a UTF-8 file, with or without a byte order mark.

    Given `problems`, lines with other bytes are recorded there, and those bytes become surrogates.

    Raises:
        UsageError: the file cannot be read, is UTF-16 or empty, or, without `problems`, not UTF-8.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UsageError(f"{path}: {(error.strerror or 'cannot be read').lower()}") from error
    text = decode(data, path, problems)
    if not text.strip():
        raise UsageError(f"{path}: is empty")
    return text


def decode(data: bytes, name: object, problems: Problems | None = None) -> str:
    """Decode the bytes of a file `name` as `read_text` does; they may be empty.

    Raises:
        UsageError: the text is UTF-16, or, without `problems`, not UTF-8.
    """
    refuse_utf_16(data, name)
    text = data.decode("utf-8-sig", "surrogateescape")
    recorded = Problems(name) if problems is None else problems
    recorded.add_error(LINES_NOT_UTF_8, _invalid_bytes(text))
    if problems is None:
        recorded.raise_errors()
    return text


def refuse_utf_16(data: bytes, name: object) -> None:
    """Raise a UsageError if a file `name` begins with the byte order mark of UTF-16."""
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise UsageError(
            f"{name}: is UTF-16, not UTF-8 (byte 0 is 0x{data[0]:02x}): save it as UTF-8"
        )


def _invalid_bytes(text: str) -> Iterator[str]:
    """Describe the first byte of each line that is not UTF-8."""
    for number, line in enumerate(text.split("\n"), 1):
        if match := NOT_UTF_8.search(line):
            yield f"line {number}, column {match.start() + 1} is 0x{ord(match[0]) - 0xDC00:02x}"


class BrokenJSONError(ValueError):
    """Invalid JSON. The message is position and reason: `line 2, column 12: Expecting value`."""


def parse_json(text: str, first_line: int = 1) -> Any:
    """Parse strict JSON, without the NaN and Infinity that Python accepts.

    The error message counts lines from `first_line`, the number of the first one in its file.

    Raises:
        BrokenJSONError: the text is not JSON.
    """
    constants: list[str] = []  # NaN and Infinity
    try:
        data = json.loads(text, parse_constant=constants.append)
        if constants:  # Python does not report their position, so parse again and fail there
            json.loads(re.sub("NaN|-?Infinity", lambda match: "?" * len(match[0]), text))
        return data
    except json.JSONDecodeError as error:
        reason = f"{constants[0]} is not JSON" if constants else error.msg
        position = f"line {first_line + error.lineno - 1}, column {error.colno}"
        raise BrokenJSONError(f"{position}: {reason}") from error
    except (ValueError, RecursionError) as error:  # thousands of digits, or of nested brackets
        raise BrokenJSONError(f"line {first_line}: cannot be parsed: {error}") from error


Fields = dict[str, tuple[type, ...]]
"""The fields that a record must have, with the types that each may have."""


def valid_records(records: list[Any], name: str, fields: Fields, problems: Problems) -> list[Any]:
    """Return the records that have all `fields`; the others are recorded as errors."""
    return [
        record
        for index, record in enumerate(records)
        if is_valid(record, f"{name}[{index}]", fields, problems)
    ]


def is_valid(record: Any, name: str, fields: Fields, problems: Problems) -> bool:
    """Check that a record has all `fields`, and record those that are missing or of another type.

    Types must match exactly: True is no int here.
    """
    if not isinstance(record, dict):
        problems.add_error("not a JSON object", [f"{name} is {record!r:.50}"])
        return False
    wrong = [key for key, types in fields.items() if type(record.get(key, ...)) not in types]
    for key in wrong:
        actual = f"is {record[key]!r:.50}" if key in record else "is missing"
        problems.add_error(f"wrong `{key}`", [f"{name}.{key} {actual}"])
    return not wrong
