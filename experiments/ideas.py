"""What each idea of sequence to sequence brings: python -m experiments.ideas --help.

One config is trained with every idea and every cell, for the same number of steps: the source read
forwards ("plain"), in reverse (Sutskever et al. 2014), its last state beside every step ("peeking",
Cho et al. 2014), both of these, and attention (Bahdanau et al. 2015). Results are stored: started
again, the comparison continues with the runs that are missing.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple, get_args

import typer

from captioner.cli.options import SettingsArgument
from captioner.config.run import Config
from captioner.config.schema import CellName
from captioner.console import console
from captioner.errors import CaptionerError, UsageError
from captioner.models.folder import load_config
from captioner.storage import atomic_file
from experiments.command import new_app, run_app
from experiments.pool import log_to, run_all
from experiments.reporting import MISSING, machine_name, markdown_table

IDEAS: Mapping[str, Sequence[str]] = {
    "plain": (),
    "reversed": ("encoder.reverse=true",),
    "peeking": ("decoder.context=every_step",),
    "reversed, peeking": ("encoder.reverse=true", "decoder.context=every_step"),
    "attention": ("decoder.context=attention",),
}
_PLAIN = ("encoder.bidirectional=false", "encoder.reverse=false", "decoder.context=none")
CELLS = get_args(CellName)
METRICS = {"exact": "exact match", "Bleu_4": "BLEU-4"}
_RESULT = "result.json"

app = new_app()


class Run(NamedTuple):
    """A training run of an idea with a cell."""

    idea: str
    cell: CellName
    config: Config


@app.command(epilog="Example: python -m experiments.ideas configs/addition.yaml --jobs 2")
def ideas(
    config: Annotated[
        Path, typer.Argument(metavar="CONFIG", help="Config of all runs.", show_default=False)
    ],
    settings: SettingsArgument = None,
    jobs: Annotated[int, typer.Option(min=1, help="Runs at a time, one core each.")] = 1,
    output: Annotated[Path, typer.Option(metavar="FOLDER", help="Folder of the runs.")] = Path(
        "runs/ideas"
    ),
) -> None:
    """Train the missing runs, and print a table of dev scores for each idea and cell."""
    runs = [
        Run(idea, cell, _config(config, settings or [], idea, cell, output))
        for idea in IDEAS
        for cell in CELLS
    ]
    missing = [run for run in runs if _read(run) is None]
    console.print(f"{len(runs) - len(missing)} of {len(runs)} runs have a result")
    for run, outcome in run_all(train_and_score, missing, jobs=jobs):
        shown = outcome if isinstance(outcome, CaptionerError) else _line(outcome)
        console.print(f"{run.idea}, {run.cell}: {shown}", markup=False)
    typer.echo(f"{table(runs)}\n\n{machine_name()}")


def _line(result: Mapping[str, float]) -> str:
    scores = "  ".join(f"{label} {100 * result[name]:.1f}" for name, label in METRICS.items())
    size = f"{result['parameters'] / 1e6:.1f} M parameters, {result['minutes']:.1f} minutes"
    return f"{scores}  ({size})"


def _config(path: Path, settings: Sequence[str], idea: str, cell: CellName, output: Path) -> Config:
    cells = (f"encoder.cell={cell}", f"decoder.cell={cell}")
    folder = output / f"{idea.replace(', ', '-')}-{cell}"
    config = load_config(path, [*settings, *_PLAIN, *cells, *IDEAS[idea]], output=folder)
    if config.encoder.kind != "text":
        raise UsageError(f"{path} reads images: name a config with encoder.kind=text")
    return config


def train_and_score(run: Run) -> dict[str, float]:
    """Train in the folder of the run, which is emptied first; store and return the result."""
    from captioner import Translator
    from captioner.training.recorder import read_log
    from captioner.training.train import train

    folder = run.config.output
    shutil.rmtree(folder, ignore_errors=True)
    start = time.monotonic()
    with log_to(folder / "log.txt"):
        best = train(run.config, device="cpu")
    validations = [line for line in read_log(folder) if "Bleu_4" in line]
    chosen = max(validations, key=lambda line: line["Bleu_4"])  # as training chooses the best
    [model] = Translator.from_pretrained(best, device="cpu").models
    result = {
        **{name: chosen[name] for name in (*METRICS, "dev_loss")},
        "parameters": sum(weight.numel() for weight in model.parameters()),
        "minutes": (time.monotonic() - start) / 60,
    }
    for weights in (best, *folder.glob("checkpoint-*")):
        shutil.rmtree(weights)
    with atomic_file(folder / _RESULT) as file:
        json.dump({"config": run.config.to_json(), "result": result}, file, indent=1)
    return result


def _read(run: Run) -> dict[str, Any] | None:
    """Return the stored result of a run; None if there is none of the same settings."""
    try:
        stored = json.loads((run.config.output / _RESULT).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    result: dict[str, Any] = stored["result"]
    return result if stored["config"] == run.config.to_json() else None


def table(runs: Sequence[Run]) -> str:
    """Return the results as two tables in Markdown, one for each metric, in percent."""
    results = {(run.idea, run.cell): _read(run) for run in runs}
    blocks = []
    for metric, label in METRICS.items():
        rows = [[label, *CELLS]]
        for idea in IDEAS:
            found = [results[idea, cell] for cell in CELLS]
            scores = [MISSING if each is None else f"{100 * each[metric]:.1f}" for each in found]
            rows.append([idea, *scores])
        blocks.append(markdown_table(rows))
    return "\n\n".join(blocks)


if __name__ == "__main__":
    run_app(app, "experiments.ideas")
