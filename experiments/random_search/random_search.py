"""Search settings at random: python -m experiments.random_search.random_search --help.

Each trial is a training with settings drawn at random, scored by its best CIDEr-D on dev. Started
again, the search continues with the trials that it would have run next. It keeps the best model.

Bergstra and Bengio 2012, "Random search for hyper-parameter optimization".
"""

from __future__ import annotations

import itertools
import json
import shutil
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from captioner.cli.options import DeviceOption, SettingsArgument
from captioner.config.loading import read_yaml
from captioner.console import console
from captioner.devices import DeviceName
from captioner.errors import CaptionerError, UsageError
from captioner.models.folder import load_config
from captioner.storage import atomic_file
from experiments.command import new_app, run_app
from experiments.pool import fill_features, log_to, run_all
from experiments.random_search.page import write_page
from experiments.random_search.trials import (
    Trial,
    best_first,
    draw,
    read_space,
    read_trials,
    write_trials,
)

app = new_app()


@app.command(
    epilog="Example: python -m experiments.random_search.random_search configs/flickr8k.yaml "
    "--space configs/search.yaml --output runs/search"
)
def random_search(
    config: Annotated[
        Path, typer.Argument(metavar="CONFIG", help="Config of all trials.", show_default=False)
    ],
    space: Annotated[
        Path,
        typer.Option(metavar="FILE", help="Settings to draw, with values.", show_default=False),
    ],
    output: Annotated[
        Path,
        typer.Option(metavar="FOLDER", help="Folder of trials and results.", show_default=False),
    ],
    settings: SettingsArgument = None,
    minutes: Annotated[float, typer.Option(min=0, help="Start no trial after this time.")] = 60,
    trials: Annotated[
        int | None, typer.Option(min=1, help="Total number of trials.", show_default="no limit")
    ] = None,
    jobs: Annotated[int, typer.Option(min=1, help="Trials at a time, one core each.")] = 1,
    seed: Annotated[int, typer.Option(help="Seed of the settings that are drawn.")] = 0,
    device: DeviceOption = "auto",
) -> None:
    """Run trials until the time is over; write a table (results.md) and a figure (results.png)."""
    settings, start = settings or [], time.monotonic()
    values, results = read_space(space), output / "results.jsonl"
    search = {
        "config": {**load_config(config, settings).to_json(), "output": str(output)},
        "space": read_yaml(space),
        "seed": seed,
    }
    first = load_config(
        config, [*settings, *Trial(0, draw(values, seed, 0)).overrides], output=folder(output, 0)
    )
    claim(output / "search.json", search)
    done = {trial.number: trial for trial in read_trials(results)}
    numbers = itertools.count() if trials is None else range(trials)
    waiting = (
        Trial(number, draw(values, seed, number)) for number in numbers if number not in done
    )
    if minutes:
        console.print(f"{len(done)} trials are done; computing features that are not cached")
        for _, error in run_all(partial(fill_features, device=device), [first], jobs=1):
            if error is not None:
                raise error
    work = partial(run_trial, config=config, settings=settings, output=output, device=device)
    for trial, outcome in run_all(work, waiting, jobs=jobs, until=start + 60 * minutes):
        if isinstance(outcome, CaptionerError):
            outcome = replace(trial, failed=str(outcome))
        done[trial.number] = outcome
        all_trials = list(done.values())
        write_trials(results, all_trials)
        write_page(output / "results.md", all_trials, values, command=[str(config), *settings])
        keep_best_model(output, all_trials)
        left = max(0, minutes - (time.monotonic() - start) / 60)
        console.print(f"{summary(done, trial.number)}; {left:.0f} min left", markup=False)
    typer.echo(output / "results.md")


def claim(path: Path, search: dict[str, Any]) -> None:
    """Record the settings of a search, or check that an existing record is the same.

    Raises:
        UsageError: the folder belongs to another search.
    """
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(path) as file:
            json.dump(search, file, indent=1)
        return
    existing = json.loads(path.read_text(encoding="utf-8"))
    if changed := [name for name in search if existing.get(name) != search[name]]:
        raise UsageError(
            f"{path.parent} holds a search with another {' and '.join(changed)}: "
            "choose another --output, or give the same values to continue that search"
        )


def folder(output: Path, number: int) -> Path:
    """Return the folder of a trial."""
    return output / f"trial-{number:04}"


def run_trial(
    trial: Trial, *, config: Path, settings: Sequence[str], output: Path, device: DeviceName
) -> Trial:
    """Train with the settings of a trial, resuming an interrupted training; return its scores."""
    from captioner.training.recorder import read_log
    from captioner.training.train import train  # imports torch

    run, start = folder(output, trial.number), time.monotonic()
    loaded = load_config(config, [*settings, *trial.overrides], output=run)
    with log_to(run / "log.txt"):
        train(loaded, device=device, resume="auto")
    validations = [line for line in read_log(run) if "CIDEr" in line]
    best = max(validations, key=lambda line: line["CIDEr"])
    return replace(
        trial,
        cider=best["CIDEr"],
        bleu_4=best["Bleu_4"],
        step=best["step"],
        seconds=time.monotonic() - start,
    )


def keep_best_model(output: Path, done: Sequence[Trial]) -> None:
    """Remove the checkpoints of all completed trials, and the models of all but the best one."""
    for trial in best_first(done)[1:]:
        shutil.rmtree(folder(output, trial.number) / "best", ignore_errors=True)
    for trial in done:
        for checkpoint in folder(output, trial.number).glob("checkpoint-*"):
            shutil.rmtree(checkpoint)


def summary(done: dict[int, Trial], number: int) -> str:
    """Return a few words about the outcome of a trial."""
    trial, best = done[number], best_first(done.values())[0]
    if trial.cider is None or best.cider is None:
        return f"trial {number} failed: {trial.failed}"
    return (
        f"trial {number}: CIDEr-D {100 * trial.cider:.1f} "
        f"(best: {100 * best.cider:.1f}, trial {best.number})"
    )


if __name__ == "__main__":
    run_app(app, "experiments.random_search.random_search")
