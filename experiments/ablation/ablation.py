"""Compare contexts, cells and training objectives: python -m experiments.ablation.ablation --help.

Each combination of context, cell, objective and seed is trained on the features of a frozen trunk
for the same number of epochs, and captions dev. Results are stored: started again, the ablation
continues with the runs that are missing.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, get_args

import typer

from captioner.cli.options import SettingsArgument
from captioner.config.schema import CellName, ContextName, ObjectiveName
from captioner.config.training import PhaseConfig
from captioner.console import console
from captioner.errors import CaptionerError, UsageError
from captioner.models.folder import load_config
from experiments.ablation.grid import Job, all_runs
from experiments.ablation.page import write_page
from experiments.ablation.results import Result, check, load, load_failures, save_failure
from experiments.command import new_app, run_app
from experiments.pool import fill_features, run_all, time_limit

CONTEXTS, CELLS, OBJECTIVES = get_args(ContextName), get_args(CellName), get_args(ObjectiveName)
DOCUMENT = Path("docs/comparison.md")

app = new_app()


@app.command(
    epilog="Example: python -m experiments.ablation.ablation configs/compare.yaml "
    "--contexts none,attention --jobs 2"
)
def ablation(
    config: Annotated[
        Path, typer.Argument(metavar="CONFIG", help="Config of all runs.", show_default=False)
    ],
    settings: SettingsArgument = None,
    contexts: Annotated[str, typer.Option(help="Separated by commas.")] = ",".join(CONTEXTS),
    cells: Annotated[str, typer.Option(help="Separated by commas.")] = ",".join(CELLS),
    objectives: Annotated[str, typer.Option(help="Separated by commas.")] = ",".join(OBJECTIVES),
    seeds: Annotated[str, typer.Option(help="Separated by commas.")] = "0,1,2",
    jobs: Annotated[int, typer.Option(min=1, help="Runs at a time, one core each.")] = 1,
    minutes: Annotated[
        float,
        typer.Option(
            min=0, help="Start no run after this time; 0: only write.", show_default="no limit"
        ),
    ] = float("inf"),
    run_minutes: Annotated[
        float, typer.Option(min=0.01, help="A run that takes longer has failed.")
    ] = 60,
    output: Annotated[
        Path, typer.Option(metavar="FOLDER", help="Folder of runs and features.")
    ] = Path("runs/compare"),
    document: Annotated[
        Path, typer.Option(metavar="FILE", help="Page of results; its figure is beside it.")
    ] = DOCUMENT,
) -> None:
    """Train the missing runs, and write a page with tables and a figure of all results."""
    settings = settings or []
    phase = shared_phase(config, settings)
    runs = all_runs(
        parse_names(contexts, CONTEXTS, "--contexts"),
        parse_names(cells, CELLS, "--cells"),
        parse_names(objectives, OBJECTIVES, "--objectives"),
        parse_seeds(seeds),
    )
    all_jobs = [
        Job(run, load_config(config, [*settings, *run.settings(phase)], output=output / run.name))
        for run in runs
    ]
    results = load(runs, output)
    for job in all_jobs:
        if job.run in results:
            check(results[job.run], job)
    missing = [job for job in all_jobs if job.run not in results]
    console.print(f"{len(results)} of {len(runs)} runs have a result")
    try:
        if missing and minutes:
            until = time.monotonic() + 60 * minutes
            train_all(missing, jobs=jobs, until=until, run_seconds=60 * run_minutes)
    finally:
        write_page(
            document,
            runs,
            load(runs, output),
            load_failures(runs, output),
            phase=phase,
            command=[str(config), *settings],
        )
    typer.echo(document)


def shared_phase(config: Path, settings: Sequence[str]) -> PhaseConfig:
    """Return the only phase of the config: the epochs and the learning rate of all runs.

    Raises:
        UsageError: the config has several phases.
    """
    phase, *more = load_config(config, settings).training.phases
    if more:
        raise UsageError(
            f"{config} has several training.phases, but the ablation sets the phases of each run: "
            "give one phase, with epochs and learning_rate"
        )
    return phase


def parse_names(text: str, known: Sequence[str], option: str) -> list[str]:
    """Split a list of names at commas.

    Raises:
        UsageError: a name is not one of `known`.
    """
    names = text.split(",")
    if unknown := [name for name in names if name not in known]:
        raise UsageError(f"{option}: unknown name '{unknown[0]}': choose from {', '.join(known)}")
    return names


def parse_seeds(text: str) -> list[int]:
    """Split a list of seeds at commas.

    Raises:
        UsageError: a seed is not an integer.
    """
    try:
        return [int(seed) for seed in text.split(",")]
    except ValueError:
        raise UsageError(
            f"--seeds {text}: give integers, separated by commas, for example 0,1,2"
        ) from None


def train_all(missing: Sequence[Job], *, jobs: int, until: float, run_seconds: float) -> None:
    """Train and score the missing runs, and print a line for each. Failures are stored."""
    console.print("computing features that are not cached (progress is in features.log)")
    # Attention needs the features of all grid positions, the other contexts only their mean.
    by_features = {job.config.decoder.context == "attention": job.config for job in missing}
    fill = partial(fill_features, device="auto")
    for _, error in run_all(fill, by_features.values(), jobs=1):
        if error is not None:
            raise error
    start = time.monotonic()
    work = partial(train_and_score, seconds=run_seconds)
    outcomes = run_all(work, missing, jobs=jobs, until=until)
    for done, (job, outcome) in enumerate(outcomes, start=1):
        if isinstance(outcome, CaptionerError):
            save_failure(str(outcome), job.config.output)
        left = (time.monotonic() - start) / done * (len(missing) - done) / 60
        console.print(
            f"{done}/{len(missing)} {job.run.name}: {summary(outcome)}; about {left:.0f} min left",
            markup=False,
        )


def train_and_score(job: Job, *, seconds: float) -> Result:
    """Train a run in a process of the pool, which imports torch."""
    from experiments.ablation import run

    with time_limit(seconds):
        return run.train_and_score(job)


def summary(outcome: Result | CaptionerError) -> str:
    """Return a few words about the outcome of a run."""
    if isinstance(outcome, CaptionerError):
        return f"failed: {outcome}"
    bleu, cider = (100 * outcome.scores[name] for name in ("Bleu_4", "CIDEr"))
    return f"BLEU-4 {bleu:.1f}, CIDEr-D {cider:.1f}, {outcome.training_seconds:.0f} s of training"


if __name__ == "__main__":
    run_app(app, "experiments.ablation.ablation")
