"""Gathering what is wrong with a data set, kind by kind, so that all of it can be told at once. Reads nothing."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice

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
            lines = [f"{self.source}: {total:,} problems, so nothing was started:", *(f"  {it}" for it in grave)]
            raise UsageError(f"{self.source}: {grave[0]}" if len(grave) == 1 else "\n".join(lines))
