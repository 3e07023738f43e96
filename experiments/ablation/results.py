"""The stored results of the ablation's runs, and comparisons between runs."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from captioner.config.run import Config
from captioner.errors import UsageError
from captioner.storage import atomic_file
from experiments.ablation.by_length import LengthBin
from experiments.ablation.grid import Job, Run

_RESULT = "result.json"
_FAILURE = "failure.txt"


@dataclass(frozen=True)
class Result:
    """What is stored of a run."""

    run: Run
    config: dict[str, Any]  # all its settings
    scores: dict[str, float]  # on dev, by COCO's names, 0 to 1
    loss: float  # of a token of dev, with teacher forcing
    free_running_loss: float  # the same, but the decoder reads its own predictions
    parameters: int  # of the decoder, with its context
    training_seconds: float
    captions_per_second: float
    by_length: list[LengthBin]
    machine: str


def save(result: Result, folder: Path) -> None:
    """Write a result into the run's folder."""
    with atomic_file(folder / _RESULT) as file:
        values = asdict(result) | {"run": [*result.run.row, result.run.seed]}
        json.dump(values, file, indent=1)


def save_failure(reason: str, folder: Path) -> None:
    """Write why a run has no result into its folder."""
    folder.mkdir(parents=True, exist_ok=True)
    with atomic_file(folder / _FAILURE) as file:
        file.write(reason)


def load_failures(runs: Iterable[Run], output: Path) -> dict[Run, str]:
    """Read why runs failed. One that was repeated and has a result did not fail."""
    return {
        run: (output / run.name / _FAILURE).read_text(encoding="utf-8")
        for run in runs
        if (output / run.name / _FAILURE).exists() and not (output / run.name / _RESULT).exists()
    }


def load(runs: Iterable[Run], output: Path) -> dict[Run, Result]:
    """Read the results of those runs that have one."""
    results = {}
    for run in runs:
        path = output / run.name / _RESULT
        if path.exists():
            values = json.loads(path.read_text(encoding="utf-8"))
            bins = [LengthBin(*group) for group in values["by_length"]]
            results[run] = Result(**values | {"run": run, "by_length": bins})
    return results


def check(result: Result, job: Job) -> None:
    """Check that a stored result was made with the settings of `job`.

    A setting that is newer than the result counts as its default.

    Raises:
        UsageError: names the settings that differ.
    """
    stored = Config.parse(result.config, source=str(job.config.output / _RESULT))
    if changed := sorted(_differences(run_settings(stored), run_settings(job.config))):
        raise UsageError(
            f"{job.config.output} was trained with other settings ({', '.join(changed)}): "
            "choose another --output, or remove that folder"
        )


def run_settings(config: Config) -> dict[str, Any]:
    """Return all settings that influence a run: all but its folder."""
    return {name: value for name, value in config.to_json().items() if name != "output"}


def _differences(one: Any, other: Any, key: str = "") -> list[str]:
    """Return the dotted keys at which two configs differ."""
    if isinstance(one, dict) and isinstance(other, dict):
        return [
            difference
            for name in one.keys() | other.keys()
            for difference in _differences(one.get(name), other.get(name), f"{key}.{name}")
        ]
    return [] if one == other else [key.removeprefix(".")]


def matched(results: Mapping[Run, Result], factor: int) -> dict[str, list[Result]]:
    """Group results by their choice for a factor (an index of FACTORS).

    A run counts only if, with everything else equal, every choice has a result.
    """
    groups: dict[tuple[str | int, ...], dict[str, Result]] = defaultdict(dict)
    for run, result in results.items():
        others: tuple[str | int, ...] = (*run.row[:factor], *run.row[factor + 1 :], run.seed)
        groups[others][run.row[factor]] = result
    choices = dict.fromkeys(run.row[factor] for run in results)
    complete = [group for group in groups.values() if len(group) == len(choices)]
    return {choice: [group[choice] for group in complete] for choice in choices if complete}


def timed_alike(results: Mapping[Run, Result]) -> dict[Run, Result]:
    """Return the results of the machine with the most runs: only their seconds are comparable."""
    if not results:
        return {}
    machines = Counter(result.machine for result in results.values())
    machine = machines.most_common(1)[0][0]
    return {run: result for run, result in results.items() if result.machine == machine}


def bleu_by_bin(results: Sequence[Result]) -> list[list[float]]:
    """Return the BLEU-4 of each result, 0 to 1, for each group of images of similar length."""
    bins = zip(*(result.by_length for result in results), strict=True)
    return [[group.bleu_4 for group in groups] for groups in bins]
