"""What `decoding/search.py` tries: settings drawn from a space of them, and what came of it."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pydantic import model_validator

from captioner.config.loading import parse, read_yaml
from captioner.config.schema import Section
from captioner.errors import UsageError
from captioner.storage import new_file

_DIGITS = 3  # of a drawn number: more would only be harder to read


class Range(Section):
    """Numbers to draw from, evenly or evenly in their logarithms."""

    low: float
    high: float
    log: bool = False

    @model_validator(mode="after")
    def _holds_numbers(self) -> Range:
        if self.low >= self.high:
            raise ValueError(f"low ({self.low}) is not below high ({self.high})")
        if self.log and self.low <= 0:
            raise ValueError(
                f"low ({self.low}) has no logarithm: give one above 0, or leave log out"
            )
        return self

    def draw(self, rng: random.Random) -> float:
        """Draw one."""
        if self.log:
            value = math.exp(rng.uniform(math.log(self.low), math.log(self.high)))
        else:
            value = rng.uniform(self.low, self.high)
        return float(f"{value:.{_DIGITS}g}")


Space = Mapping[str, Range | list[Any]]
"""Setting → its values: a list to choose from, or a range."""


def read_space(path: Path) -> Space:
    """Read a space from YAML.

    Raises:
        UsageError: a setting has neither a list of values nor a range.
    """
    space: dict[str, Range | list[Any]] = {}
    for key, values in read_yaml(path).items():
        if isinstance(values, dict):
            space[key] = parse(Range, values, source=f"{path}, {key}")
        elif isinstance(values, list) and values:
            space[key] = values
        else:
            raise UsageError(
                f"{path}, {key}: give a list to choose from, or {{low: 0.1, high: 0.5, log: false}}"
            )
    return space


def draw(space: Space, seed: int, number: int) -> dict[str, Any]:
    """Draw the settings of a trial: they hang on the seed, its number and their own names alone."""
    drawn = {}
    for key, values in space.items():
        rng = random.Random(f"{seed} {number} {key}")
        drawn[key] = values.draw(rng) if isinstance(values, Range) else rng.choice(values)
    return drawn


@dataclass(frozen=True)
class Trial:
    """One training, and what came of it."""

    number: int
    settings: dict[str, Any]
    cider: float | None = None  # CIDEr-D of the best validation, a fraction
    bleu_4: float | None = None  # of the same validation
    step: int | None = None  # at which it was
    seconds: float | None = None
    failed: str | None = None  # why there is no score

    @property
    def overrides(self) -> list[str]:
        """Give the settings as key=value."""
        return [f"{key}={json.dumps(value)}" for key, value in self.settings.items()]


def best_first(trials: Iterable[Trial]) -> list[Trial]:
    """Sort by CIDEr-D; those that failed come last."""
    return sorted(
        trials, key=lambda trial: -math.inf if trial.cider is None else trial.cider, reverse=True
    )


def write_trials(path: Path, trials: Iterable[Trial]) -> None:
    """Keep what came of trials, a line of JSON each, whole or not at all."""
    with new_file(path) as file:
        for trial in trials:
            file.write(json.dumps(asdict(trial)) + "\n")


def read_trials(path: Path) -> list[Trial]:
    """Give what `write_trials` kept, in the order of their ends; nothing, if there is no such file."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return [Trial(**json.loads(line)) for line in lines]
