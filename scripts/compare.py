"""Compare ways of showing the decoder an image, and of teaching it, under one budget: python scripts/compare.py --help.

Each combination of context, cell, objective and seed is trained on the features of a frozen trunk for the same number
of epochs, and captions dev. What was done is kept: started again, it goes on with what is missing.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, get_args

import typer
from command import new_app, run_app
from comparison import Job, in_order
from comparison_page import write_page
from comparison_results import Result, check, load
from experiments import fill_features, run_all

from captioner.cli.options import SettingsArgument
from captioner.config.schema import CellName, ContextName, ObjectiveName, PhaseConfig
from captioner.console import console
from captioner.errors import CaptionerError, UsageError
from captioner.training.settings import load_config

CONTEXTS, CELLS, OBJECTIVES = get_args(ContextName), get_args(CellName), get_args(ObjectiveName)
DOCUMENT = Path("docs/comparison.md")

app = new_app()


@app.command(
    epilog="Example: python scripts/compare.py configs/compare.yaml --contexts none,attention --jobs 2"
)
def compare(
    config: Annotated[
        Path,
        typer.Argument(metavar="CONFIG", help="What all runs have in common.", show_default=False),
    ],
    settings: SettingsArgument = None,
    contexts: Annotated[str, typer.Option(help="Which, with commas between.")] = ",".join(CONTEXTS),
    cells: Annotated[str, typer.Option(help="Which, with commas between.")] = ",".join(CELLS),
    objectives: Annotated[str, typer.Option(help="Which, with commas between.")] = ",".join(
        OBJECTIVES
    ),
    seeds: Annotated[str, typer.Option(help="Which, with commas between.")] = "0,1,2",
    jobs: Annotated[int, typer.Option(min=1, help="Runs at a time, one core each.")] = 1,
    minutes: Annotated[
        float,
        typer.Option(
            min=0, help="Begin no run after so long; 0: only write.", show_default="no end"
        ),
    ] = float("inf"),
    output: Annotated[Path, typer.Option(metavar="FOLDER", help="Of runs and features.")] = Path(
        "runs/compare"
    ),
    document: Annotated[
        Path, typer.Option(metavar="FILE", help="Table; the plot goes beside it.")
    ] = DOCUMENT,
) -> None:
    """Train what is missing, and write a table and a plot of all that is there."""
    settings = settings or []
    phase = phase_of(config, settings)
    runs = in_order(
        chosen(contexts, CONTEXTS, "--contexts"),
        chosen(cells, CELLS, "--cells"),
        chosen(objectives, OBJECTIVES, "--objectives"),
        numbers(seeds),
    )
    all_jobs = [
        Job(run, load_config(config, [*settings, *run.settings(phase)], output=output / run.name))
        for run in runs
    ]
    there = load(runs, output)
    for job in all_jobs:
        if job.run in there:
            check(there[job.run], job)
    missing = [job for job in all_jobs if job.run not in there]
    console.print(f"{len(there)} of {len(runs)} runs are there")
    try:
        if missing and minutes:
            train_all(missing, jobs=jobs, until=time.monotonic() + 60 * minutes)
    finally:
        write_page(
            document, runs, load(runs, output), phase=phase, command=[str(config), *settings]
        )
    typer.echo(document)


def phase_of(config: Path, settings: Sequence[str]) -> PhaseConfig:
    """Read the budget that all runs share.

    Raises:
        UsageError: the config has several phases.
    """
    phase, *more = load_config(config, settings).training.phases
    if more:
        raise UsageError(
            f"{config}: training.phases is what runs differ in: give one phase, with epochs and rate"
        )
    return phase


def chosen(text: str, known: Sequence[str], option: str) -> list[str]:
    """Split a list of names.

    Raises:
        UsageError: one of them is unknown.
    """
    names = text.split(",")
    if unknown := [name for name in names if name not in known]:
        raise UsageError(f"{option}: there is no '{unknown[0]}': choose from {', '.join(known)}")
    return names


def numbers(text: str) -> list[int]:
    """Split a list of seeds.

    Raises:
        UsageError: one of them is no number.
    """
    try:
        return [int(seed) for seed in text.split(",")]
    except ValueError:
        raise UsageError(
            f"--seeds {text}: give whole numbers with commas between, for example 0,1,2"
        ) from None


def train_all(missing: Sequence[Job], *, jobs: int, until: float) -> None:
    """Train and measure, a line for each run."""
    console.print(
        "features first, where they are not kept yet (features.log says how far they are)"
    )
    of_grids = {
        job.config.decoder.context == "attention": job.config for job in missing
    }  # it alone reads the places
    for _, failure in run_all(fill_features, of_grids.values(), jobs=1):
        if failure is not None:
            raise failure
    begun = time.monotonic()
    for done, (job, outcome) in enumerate(
        run_all(carry_out, missing, jobs=jobs, until=until), start=1
    ):
        left = (time.monotonic() - begun) / done * (len(missing) - done) / 60
        console.print(
            f"{done}/{len(missing)} {job.run.name}: {told(outcome)}; about {left:.0f} min left",
            markup=False,
        )


def carry_out(job: Job) -> Result:
    """Do it in a process that may take its time to import torch."""
    import compare_run

    return compare_run.carry_out(job)


def told(outcome: Result | CaptionerError) -> str:
    """Say in a few words what came of a run."""
    if isinstance(outcome, CaptionerError):
        return f"failed: {outcome}"
    bleu, cider = (100 * outcome.scores[name] for name in ("Bleu_4", "CIDEr"))
    return f"BLEU-4 {bleu:.1f}, CIDEr-D {cider:.1f}, {outcome.training_seconds:.0f} s of training"


if __name__ == "__main__":
    run_app(app)
