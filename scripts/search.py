"""Search settings by chance: python scripts/search.py --help.

Each trial is a training with settings drawn from a space of them, judged by its best CIDEr-D on dev. A search that is
started again goes on where it stood, with the same trials that it would have made; of models, the best is kept.

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
from command import new_app, run_app
from experiments import fill_features, log_to, run_all
from search_page import write_page
from trials import Trial, best_first, draw, read_space, read_trials, write_trials

from captioner.cli.options import Device, SettingsArgument
from captioner.config.loading import read_yaml, to_json
from captioner.config.schema import DeviceName
from captioner.console import console
from captioner.errors import CaptionerError, UsageError
from captioner.storage import new_file
from captioner.training.settings import load_config

app = new_app()


@app.command(
    epilog="Example: python scripts/search.py configs/flickr8k.yaml --space configs/search.yaml --output runs/search"
)
def search(
    config: Annotated[
        Path, typer.Argument(metavar="CONFIG", help="What all trials share.", show_default=False)
    ],
    space: Annotated[
        Path, typer.Option(metavar="FILE", help="What they differ in.", show_default=False)
    ],
    output: Annotated[
        Path, typer.Option(metavar="FOLDER", help="Of trials and results.", show_default=False)
    ],
    settings: SettingsArgument = None,
    minutes: Annotated[float, typer.Option(min=0, help="Begin no trial after so long.")] = 60,
    trials: Annotated[
        int | None, typer.Option(min=1, help="Trials in all.", show_default="no limit")
    ] = None,
    jobs: Annotated[int, typer.Option(min=1, help="Trials at a time, one core each.")] = 1,
    seed: Annotated[int, typer.Option(help="Of the drawing.")] = 0,
    device: Annotated[Device, typer.Option(help="Where to train.")] = Device.AUTO,
) -> None:
    """Try settings until time is up, and write a table (results.md) and a plot (results.png) of what came of them."""
    settings, begun = settings or [], time.monotonic()
    values, results = read_space(space), output / "results.jsonl"
    base = load_config(config, settings)
    about = {
        "config": {**to_json(base), "output": str(output)},
        "space": read_yaml(space),
        "seed": seed,
    }
    first = load_config(
        config, [*settings, *Trial(0, draw(values, seed, 0)).overrides], output=place(output, 0)
    )
    claim(output / "search.json", about)
    done = {trial.number: trial for trial in read_trials(results)}
    numbers = itertools.count() if trials is None else range(trials)
    waiting = (
        Trial(number, draw(values, seed, number)) for number in numbers if number not in done
    )
    if minutes:
        console.print(f"{len(done)} trials are there; features first, where they are not kept yet")
        for _, failure in run_all(partial(fill_features, device=device.value), [first], jobs=1):
            if failure is not None:
                raise failure
    work = partial(try_out, config=config, settings=settings, output=output, device=device.value)
    for trial, outcome in run_all(work, waiting, jobs=jobs, until=begun + 60 * minutes):
        done[trial.number] = (
            replace(trial, failed=str(outcome)) if isinstance(outcome, CaptionerError) else outcome
        )
        write_trials(results, done.values())
        write_page(
            output / "results.md", list(done.values()), values, command=[str(config), *settings]
        )
        keep_the_best(output, list(done.values()))
        minutes_left = minutes - (time.monotonic() - begun) / 60
        console.print(
            f"{told(done, trial.number)}; {max(0, minutes_left):.0f} min left", markup=False
        )
    typer.echo(output / "results.md")


def claim(path: Path, about: dict[str, Any]) -> None:
    """Note what is searched, or make sure that the search which is there was the same.

    Raises:
        UsageError: it was another one.
    """
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        with new_file(path) as file:
            json.dump(about, file, indent=1)
        return
    there = json.loads(path.read_text(encoding="utf-8"))
    if changed := [name for name in about if there.get(name) != about[name]]:
        raise UsageError(
            f"{path.parent} holds a search with another {' and '.join(changed)}: choose another --output, "
            "or give the same again to go on with it"
        )


def place(output: Path, number: int) -> Path:
    """Name a trial's folder."""
    return output / f"trial-{number:04}"


def try_out(
    trial: Trial, *, config: Path, settings: Sequence[str], output: Path, device: DeviceName
) -> Trial:
    """Train with a trial's settings, going on with what an interrupted search has left of it; say how good it was."""
    from captioner.training.plots import read_log
    from captioner.training.train import train  # imports torch

    folder, begun = place(output, trial.number), time.monotonic()
    chosen = load_config(config, [*settings, *trial.overrides], output=folder)
    with log_to(folder / "log.txt"):
        train(chosen, device=device, resume="auto")
    best = max(
        (line for line in read_log(folder) if "CIDEr" in line), key=lambda line: line["CIDEr"]
    )
    seconds = time.monotonic() - begun
    return replace(
        trial, cider=best["CIDEr"], bleu_4=best["Bleu_4"], step=best["step"], seconds=seconds
    )


def keep_the_best(output: Path, done: Sequence[Trial]) -> None:
    """Remove the models of trials that are done, but for the best one's, and all their checkpoints."""
    for trial in best_first(done)[1:]:
        shutil.rmtree(place(output, trial.number) / "best", ignore_errors=True)
    for trial in done:
        for checkpoint in place(output, trial.number).glob("checkpoint-*"):
            shutil.rmtree(checkpoint)


def told(done: dict[int, Trial], number: int) -> str:
    """Say in a few words what came of a trial."""
    trial, best = done[number], best_first(done.values())[0]
    if trial.cider is None or best.cider is None:
        return f"trial {number} failed: {trial.failed}"
    return f"trial {number}: CIDEr-D {100 * trial.cider:.1f} (best: {100 * best.cider:.1f}, trial {best.number})"


if __name__ == "__main__":
    run_app(app)
