"""Parallel text: two files aligned by line, or one TSV or JSONL file that holds both sides.

Readers record what is wrong in `Problems` and continue, as those of captions do.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from captioner.console import stdin_bytes
from captioner.data.lines import Line, split_lines
from captioner.data.problems import BrokenJSONError, Problems, is_valid, parse_json, read_text
from captioner.data.tables import find_table
from captioner.errors import UsageError

STDIN = "-"
BOTH_SIDES = (".tsv", ".jsonl")  # the endings of files that hold sources and their targets
NOT_TEXT = re.compile("[\0\ud800-\udfff]")  # NUL, and the halves of a character in JSON
VISIBLE = frozenset(
    "LMNPS"
)  # Unicode's categories of letters, marks, numbers, punctuation, symbols


class Pair(NamedTuple):
    """A text with its targets, which are named as the captions of an `Example`."""

    place: str  # in its file: "line 3"
    source: str
    captions: tuple[str, ...]


class _Row(NamedTuple):
    """Both sides of a line as it is in the file, empty sides too."""

    number: int
    source: str
    targets: Sequence[str]


def pair_problems(source: Path, target: Path | None) -> Problems:
    """Return the `Problems` of one or two files, with both of their names."""
    return Problems(f"{source} and {target}" if target else source)


def load_pairs(source: Path, target: Path | None, problems: Problems) -> list[Pair]:
    """Load parallel text; errors are recorded in `problems`, and pairs with an empty side left out.

    Args:
        source: the texts, one a line; or, without `target`, both sides in a .tsv file of two
            columns or a .jsonl file of {"source": ..., "target": text or [text, ...]}.
        target: the target of each line of `source`.
        problems: of the files: see `pair_problems`.

    Raises:
        UsageError: a file cannot be read, the format is unknown, or no pair is complete.
    """
    suffix = source.suffix.lower()
    if target is not None:
        if suffix in BOTH_SIDES:
            raise UsageError(
                f"{source}: a {suffix} file holds both sides: leave out target {target}"
            )
        rows = _read_two_files(source, target, problems)
    elif suffix == ".tsv":
        rows = _read_tsv(_read_lines(source, problems), problems)
    elif suffix == ".jsonl":
        rows = _read_jsonl(_read_lines(source, problems), problems)
    else:
        raise UsageError(
            f"{source}: holds one side only: also name target, the file with the target of each "
            "line; or name a .tsv file of two columns, or a .jsonl file with source and target"
        )
    pairs = list(_complete_pairs(rows, problems))
    if not pairs:
        problems.raise_errors()  # they are the better explanation
        raise UsageError(f"{problems.source}: no line has both a source and a target")
    return pairs


def is_parallel(path: Path) -> bool:
    """Return whether a file holds both sides of parallel text: a .tsv file, or JSONL with sources.

    Raises:
        UsageError: the file cannot be read.
    """
    suffix = path.suffix.lower()
    if suffix not in BOTH_SIDES:
        return False
    text = read_text(path, Problems(path))
    if suffix == ".tsv":
        return find_table(text) is None  # else it is a table of images and captions
    first_line = text.lstrip().partition("\n")[0]
    try:
        record = parse_json(first_line)
    except BrokenJSONError:
        return False
    return isinstance(record, dict) and "source" in record and "image" not in record


def read_lines(path: Path | str) -> list[str]:
    """Return all lines of a text file, or of stdin if `path` is "-", without line ends.

    Empty lines are kept, since the output has a line for each; an empty file has no line.

    Raises:
        UsageError: the file cannot be read, is not UTF-8, has NUL characters, or its lines end
            with CR alone; or stdin is closed.
    """
    if str(path) == STDIN:
        data, name = stdin_bytes().read(), "stdin"
    else:
        data, name = _read_bytes(Path(path)), str(path)
    problems = Problems(name)
    lines = _recorded(split_lines(data, name), problems)
    problems.raise_errors()
    return [line.text for line in lines]


def _read_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UsageError(f"{path}: {(error.strerror or 'cannot be read').lower()}") from error


def _recorded(lines: Iterable[Line], problems: Problems) -> list[Line]:
    """Return the lines, after recording the problems of those that cannot be read."""
    lines = list(lines)
    for number, _, problem in lines:
        if problem:
            place = f", {problem.place}" if problem.place else ""
            problems.add_error(problem.kind, [f"line {number}{place}"])
    return lines


def _read_lines(path: Path, problems: Problems) -> list[Line]:
    lines = _recorded(split_lines(_read_bytes(path), path), problems)
    if not any(line.problem or line.text.strip() for line in lines):
        raise UsageError(f"{path}: is empty")
    return lines


def _read_two_files(source: Path, target: Path, problems: Problems) -> Iterator[_Row]:
    """Yield the rows of two files, as many as the shorter one has."""
    sides = []
    for path in (source, target):
        own = Problems(path)
        sides.append(_read_lines(path, own))
        for problem in own:
            problems.add_error(problem.kind, (f"{path}, {case}" for case in problem.cases))
    sources, targets = sides
    longer, shorter = sorted(sides, key=len, reverse=True)
    while len(longer) > len(shorter) and not longer[-1].problem and _is_blank(longer[-1].text):
        longer.pop()  # blank lines at the end of a file are no texts
    if len(sources) != len(targets):
        counts = f"{source} has {len(sources):,} and {target} has {len(targets):,}"
        problems.add_error("different numbers of lines, so that none can be trusted", [counts])
    for one, other in zip(sources, targets, strict=False):
        if not (one.problem or other.problem):
            yield _Row(one.number, one.text, [other.text])


def _read_tsv(lines: list[Line], problems: Problems) -> Iterator[_Row]:
    """Yield the rows of two columns. There is no header, and quotes are characters of the text."""
    for number, line, problem in lines:
        if problem:
            continue
        columns = line.split("\t")
        if len(columns) == 2:
            yield _Row(number, columns[0], columns[1:])
        elif _is_blank(line):
            yield _Row(number, "", [])
        else:
            case = f"line {number} has {len(columns)}"
            problems.add_error("lines without exactly 2 columns, separated by a tab", [case])


def _read_jsonl(lines: list[Line], problems: Problems) -> Iterator[_Row]:
    for number, line, problem in lines:
        if problem:
            continue
        if _is_blank(line):
            yield _Row(number, "", [])
            continue
        try:
            record = parse_json(line, number)
        except BrokenJSONError as error:
            problems.add_error("broken JSON", [error])
            continue
        if not is_valid(record, f"line {number}", {"source": (str,)}, problems):
            continue
        targets = _targets(record)
        if targets is None:
            problems.add_error("wrong or missing `target`, a text or a list", [f"line {number}"])
            continue
        if any(map(NOT_TEXT.search, [record["source"], *targets])):
            problems.add_error("NUL or half a character in JSON", [f"line {number}"])
        yield _Row(number, record["source"], targets)


def _targets(record: dict[str, Any]) -> list[str] | None:
    """Return the targets of a record, or None if they are neither a text nor a list of texts."""
    target = record.get("target")
    if isinstance(target, str):
        return [target]
    is_list = isinstance(target, list) and all(isinstance(text, str) for text in target)
    return target if is_list else None


def _complete_pairs(rows: Iterator[_Row], problems: Problems) -> Iterator[Pair]:
    """Yield the pairs with text on both sides, and record the others by what they lack."""
    for number, source, targets in rows:
        place = f"line {number}"
        captions = tuple(text.strip() for text in targets if not _is_blank(text))
        has_source = not _is_blank(source)
        if has_source and captions:
            if len(captions) < len(targets):
                problems.add_warning("empty targets among others, left out", [place])
            yield Pair(place, source.strip(), captions)
        elif has_source:
            problems.add_warning("sources without a target, left out", [place])
        elif captions:
            problems.add_warning("targets without a source, left out", [place])
        else:
            problems.add_warning("empty lines on both sides, left out", [place])


def _is_blank(text: str) -> bool:
    """Return whether a text has nothing to read: only spaces, or characters that are invisible."""
    return not any(unicodedata.category(character)[0] in VISIBLE for character in text)
