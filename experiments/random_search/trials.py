"""Trials: settings drawn from a space, and their results."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pydantic import model_validator

from captioner.config.loading import read_yaml
from captioner.config.schema import Section
from captioner.errors import UsageError
from captioner.storage import atomic_file

_DIGITS = 3  # significant digits of a drawn number


class Range(Section):
    """A range of numbers, drawn uniformly or with uniform logarithms."""

    low: float
    high: float
    log: bool = False

    @model_validator(mode="after")
    def _is_valid(self) -> Range:
        if self.low >= self.high:
            raise ValueError(f"low ({self.low}) is not below high ({self.high})")
        if self.log and self.low <= 0:
            raise ValueError(
                f"low ({self.low}) has no logarithm: give one above 0, or leave log out"
            )
        return self

    def draw(self, rng: random.Random) -> float:
        """Draw a number."""
        if self.log:
            value = math.exp(rng.uniform(math.log(self.low), math.log(self.high)))
        else:
            value = rng.uniform(self.low, self.high)
        return float(f"{value:.{_DIGITS}g}")


Space = Mapping[str, Range | list[Any]]
"""Key of a setting -> its values: a list to choose from, or a range."""


def read_space(path: Path) -> Space:
    """Read a space from YAML.

    Raises:
        UsageError: a setting has neither a list of values nor a valid range.
    """
    space: dict[str, Range | list[Any]] = {}
    for key, values in read_yaml(path).items():
        if isinstance(values, dict):
            space[key] = Range.parse(values, source=f"{path}, {key}")
        elif isinstance(values, list) and values:
            space[key] = values
        else:
            raise UsageError(
                f"{path}, {key}: give a list to choose from, or {{low: 0.1, high: 0.5, log: false}}"
            )
    return space


def draw(space: Space, seed: int, number: int) -> dict[str, Any]:
    """Draw the settings of a trial. Each depends only on the seed, the trial and its own key."""
    settings = {}
    for key, values in space.items():
        rng = random.Random(f"{seed} {number} {key}")
        settings[key] = values.draw(rng) if isinstance(values, Range) else rng.choice(values)
    return settings


@dataclass(frozen=True)
class Trial:
    """One training with drawn settings, and its result."""

    number: int
    settings: dict[str, Any]
    cider: float | None = None  # CIDEr-D of the best validation, as a fraction
    bleu_4: float | None = None  # of the same validation
    step: int | None = None  # of the same validation
    seconds: float | None = None
    failed: str | None = None  # the error, if there is no score

    @property
    def overrides(self) -> list[str]:
        """The settings as key=value."""
        return [f"{key}={json.dumps(value)}" for key, value in self.settings.items()]


def best_first(trials: Iterable[Trial]) -> list[Trial]:
    """Sort by CIDEr-D, highest first; failed trials come last."""
    return sorted(
        trials, key=lambda trial: -math.inf if trial.cider is None else trial.cider, reverse=True
    )


def write_trials(path: Path, trials: Iterable[Trial]) -> None:
    """Write trials as JSON lines, atomically."""
    with atomic_file(path) as file:
        for trial in trials:
            file.write(json.dumps(asdict(trial)) + "\n")


def read_trials(path: Path) -> list[Trial]:
    """Read the trials of `write_trials` in the same order; none if there is no file."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return [Trial(**json.loads(line)) for line in lines]
