"""What `compare.py` keeps of a run, and how runs are put side by side."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from comparison import Job, Run

from captioner.config.loading import parse, to_json
from captioner.config.schema import Config
from captioner.errors import UsageError
from captioner.metrics.diversity import LengthBin
from captioner.storage import new_file

_RESULT = "result.json"


@dataclass(frozen=True)
class Result:
    """What is kept of a run."""

    run: Run
    config: dict[str, Any]  # every setting of it
    scores: dict[str, float]  # of dev by COCO's names, as fractions
    loss: float  # of a word of dev, with the true words before it
    free_running_loss: float  # with the model's own words before it
    parameters: int  # of the decoder, and of what lays the image before it
    training_seconds: float
    captions_per_second: float
    by_length: list[LengthBin]
    machine: str


def save(result: Result, folder: Path) -> None:
    """Keep a result in the run's folder."""
    with new_file(folder / _RESULT) as file:
        values = asdict(result) | {"run": [*result.run.row, result.run.seed]}
        json.dump(values, file, indent=1)


def load(runs: Iterable[Run], output: Path) -> dict[Run, Result]:
    """Give the results that are there."""
    found = {}
    for run in runs:
        path = output / run.name / _RESULT
        if path.exists():
            values = json.loads(path.read_text(encoding="utf-8"))
            values |= {
                "run": run,
                "by_length": [LengthBin(*group) for group in values["by_length"]],
            }
            found[run] = Result(**values)
    return found


def check(result: Result, job: Job) -> None:
    """Make sure that a result that is there was made with the same settings.

    A setting that did not exist then counts as its default, with which everything is as it was before.

    Raises:
        UsageError: names the settings that have changed since.
    """
    then = parse(Config, result.config, source=str(job.config.output / _RESULT))
    if changed := sorted(_differ(settings_of(then), settings_of(job.config))):
        raise UsageError(
            f"{job.config.output} was trained with other settings ({', '.join(changed)}): "
            "choose another --output, or remove that folder"
        )


def settings_of(config: Config) -> dict[str, Any]:
    """Everything that makes a run what it is: all settings but its place."""
    return {name: value for name, value in to_json(config).items() if name != "output"}


def _differ(one: Any, other: Any, place: str = "") -> list[str]:
    if isinstance(one, dict) and isinstance(other, dict):
        keys = one.keys() | other.keys()
        return [
            key
            for name in keys
            for key in _differ(one.get(name), other.get(name), f"{place}.{name}")
        ]
    return [] if one == other else [place.removeprefix(".")]


def matched(results: Mapping[Run, Result], factor: int) -> dict[str, list[Result]]:
    """Group by one factor, keeping runs that are there for each of its choices, all else being equal."""
    peers: dict[tuple[str | int, ...], dict[str, Result]] = defaultdict(dict)
    for run, result in results.items():
        others: tuple[str | int, ...] = (*run.row[:factor], *run.row[factor + 1 :], run.seed)
        peers[others][run.row[factor]] = result
    choices = dict.fromkeys(run.row[factor] for run in results)
    whole = [group for group in peers.values() if len(group) == len(choices)]
    return {choice: [group[choice] for group in whole] for choice in choices if whole}
