"""Captions of films as WebVTT subtitles (.vtt) or JSON lines with times (.jsonl).

While a run writes `film.vtt`, its captions are in `film.vtt.part`, each from when it is known.

A WebVTT file is of one film (https://www.w3.org/TR/webvtt1/). A line of JSON is
{"film": path, "time": seconds, "caption": text}; "caption" is null where none is shown. With
several captions of a frame, "captions" has all of them, the best first.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from captioner.console import console
from captioner.data.films import format_time
from captioner.errors import CaptionerError, UsageError
from captioner.storage import atomic_file, check_writable

NOTE = "NOTE captions by captioner"
"""The first block of every WebVTT file: what has it may be replaced."""

KEYS = {"film", "time", "caption", "captions"}  # of the JSON lines
FORMS = ".vtt (WebVTT subtitles) or .jsonl (JSON lines with times)"


class FilmResults(Protocol):
    """Where the captions of films are written to."""

    done: frozenset[str]  # films that an interrupted run has captioned

    def add(self, film: Path, time: float, captions: Sequence[str]) -> None:
        """Write the captions to show from `time`, in seconds, the best first; none: show nothing.

        Raises:
            CaptionerError: the file cannot be written.
        """

    def end(self, film: Path, time: float, *, complete: bool) -> None:
        """Say where a film ends, in seconds; not `complete`: a further run reads it again."""


def check_destination(path: Path, *, num_films: int) -> None:
    """Raise an error if captions of films cannot be written to `path`, before any captioning.

    Raises:
        UsageError: the file cannot be written, its name does not end in .vtt or .jsonl, several
            films would be in one WebVTT file, or it exists and has other content than is written
            here.
    """
    suffix = path.suffix.lower()
    if suffix not in (".vtt", ".jsonl"):
        raise UsageError(f"{path}: end the name of a file of captions of films in {FORMS}")
    if suffix == ".vtt" and num_films > 1:
        raise UsageError(
            f"{path}: subtitles are of one film, and {num_films} are named: name one, or end the "
            "name of the file in .jsonl"
        )
    check_writable(path)
    if not path.is_file() or not path.stat().st_size:
        return
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, ValueError):
        text = ""
    if not (_is_subtitles(text) if suffix == ".vtt" else _is_lines(text)):
        raise UsageError(
            f"{path} exists and was not written by captioner for films: choose another name, or "
            "delete it first"
        )


def _is_subtitles(text: str) -> bool:
    return text.startswith(f"WEBVTT\n\n{NOTE}\n")


def _is_lines(text: str) -> bool:
    try:
        lines = [json.loads(line) for line in text.splitlines()]
    except (ValueError, RecursionError):
        return False
    required = {"film", "time", "caption"}
    return all(isinstance(line, dict) and required <= line.keys() <= KEYS for line in lines)


@contextmanager
def film_results(
    path: Path, films: Sequence[Path], *, provenance: Mapping[str, object]
) -> Iterator[FilmResults]:
    """Yield results to add captions to; write them to `path` when the block ends without an error.

    After an interruption, JSON lines continue with the films that were not completed; subtitles
    begin again, as they are of one film.

    Args:
        path: a file for which `check_destination` raises no error.
        films: the films, in the order of the results.
        provenance: everything that the captions depend on, as values for JSON.

    Raises:
        UsageError: an interrupted run left captions with another provenance.
        CaptionerError: a file cannot be written.
    """
    part = path.with_name(path.name + ".part")
    results: _Subtitles | _Lines
    if path.suffix.lower() == ".vtt":
        results = _Subtitles(part)
    else:
        results = _Lines(part, [str(film) for film in films], provenance)
    try:
        yield results
    except BaseException:
        console.print(f"captioner: {results.kept}", markup=False)
        raise
    with atomic_file(path) as file:
        file.writelines(results.content())
    part.unlink()


class _Subtitles:
    """Subtitles of one film. A cue is shown until the next caption that differs."""

    done: frozenset[str] = frozenset()

    def __init__(self, part: Path) -> None:
        self._part = part
        self._text = ""  # of the cue that has not ended
        self._start = 0.0  # when it began, in seconds
        self._num_cues = 0
        with atomic_file(part) as file:
            file.write(f"WEBVTT\n\n{NOTE}\n")

    def add(self, film: Path, time: float, captions: Sequence[str]) -> None:
        text = _escape(captions[0]) if captions else ""
        if text != self._text:
            self._end_cue(time)
            self._text, self._start = text, time

    def end(self, film: Path, time: float, *, complete: bool) -> None:
        self._end_cue(time)
        self._text = ""

    def _end_cue(self, time: float) -> None:
        start, end = format_time(self._start), format_time(time)
        if self._text and start != end:  # equal if it is shorter than a millisecond
            _append(self._part, f"\n{start} --> {end}\n{self._text}\n")
            self._num_cues += 1

    @property
    def kept(self) -> str:
        return f"{self._num_cues:,} subtitles of the incomplete film are kept in {self._part}"

    def content(self) -> Iterator[str]:
        yield self._part.read_text(encoding="utf-8")


def _escape(text: str) -> str:
    """Return a text as that of a cue: one line, without characters that begin markup."""
    for character, entity in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;")):
        text = text.replace(character, entity)
    return " ".join(text.split())


class _Lines:
    """JSON lines of several films. Films that an interrupted run has completed are kept."""

    def __init__(self, part: Path, films: Sequence[str], provenance: Mapping[str, object]) -> None:
        existing = _read_part(part, provenance)
        self._part = part
        self._lines = {film: existing.get(film, []) for film in films}
        self.done = frozenset(film for film in films if film in existing)
        with atomic_file(part) as file:
            file.write(json.dumps(provenance) + "\n")
            for film in films:
                if film in existing:
                    file.writelines([*existing[film], _complete(film)])

    def add(self, film: Path, time: float, captions: Sequence[str]) -> None:
        several = {"captions": list(captions)} if len(captions) > 1 else {}
        best = captions[0] if captions else None
        entry = {"film": str(film), "time": round(time, 3), "caption": best, **several}
        line = json.dumps(entry) + "\n"
        _append(self._part, line)
        self._lines[str(film)].append(line)

    def end(self, film: Path, time: float, *, complete: bool) -> None:
        if complete:
            _append(self._part, _complete(str(film)))

    @property
    def kept(self) -> str:
        number = sum(map(len, self._lines.values()))
        return (
            f"{number:,} captions are kept in {self._part}: run the same command again to continue "
            "after the last complete film"
        )

    def content(self) -> Iterator[str]:
        for lines in self._lines.values():
            yield from lines


def _complete(film: str) -> str:
    """Return the line of a .part file after the last caption of a film."""
    return json.dumps({"film": film, "complete": True}) + "\n"


def _read_part(part: Path, provenance: Mapping[str, object]) -> dict[str, list[str]]:
    """Return the lines of each film that an interrupted run has completed."""
    films: dict[str, list[str]] = {}
    complete: set[str] = set()
    try:
        first, *lines = part.read_text(encoding="utf-8").split("\n")[:-1]
        existing = json.loads(first)
        for line in lines:
            entry: dict[str, Any] = json.loads(line)
            if "complete" in entry:
                complete.add(entry["film"])
            else:
                films.setdefault(entry["film"], []).append(line + "\n")
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        raise UsageError(
            f"{part} is not a file of an interrupted run ({error}): move it away"
        ) from error
    if existing != provenance:
        raise UsageError(
            f"{part} holds captions that an interrupted run generated with another model or other "
            "settings: run it again with those, or delete that file"
        )
    return {film: films.get(film, []) for film in complete}


def _append(part: Path, text: str) -> None:
    """Add a text to a file, which is closed each time, so that none is lost in a buffer."""
    try:
        with part.open("a", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        raise CaptionerError(
            f"{part} cannot be written: {error.strerror}: free some space and run the same command "
            "again"
        ) from error
