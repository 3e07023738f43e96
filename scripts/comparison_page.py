"""The page that `compare.py` writes: conditions, what is missing, plot, tables, and commands that repeat each row."""

from __future__ import annotations

import itertools
import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from comparison import FACTORS, Run, self_critical_epochs
from comparison_plot import draw
from comparison_results import Result
from comparison_tables import by_length, effects, every_row
from pages import markdown

from captioner.config.schema import PhaseConfig
from captioner.storage import new_file

BEGIN, END = "<!-- by hand: kept when the rest is written anew -->", "<!-- the end of it -->"


def write_page(
    path: Path,
    runs: Sequence[Run],
    results: Mapping[Run, Result],
    *,
    phase: PhaseConfig,
    command: Sequence[str],
) -> None:
    """Write the page and its plot (`path` with .png); what an older page holds between the two marks is kept.

    `phase` is the budget that all runs share; `command` is the config and the settings that were laid over it.
    """
    command = [without_folders(part) for part in command]
    plot = path.with_suffix(".png")
    parts = [
        "# Ways of showing the decoder an image, and of teaching it",
        f"{BEGIN}\n{by_hand(path)}\n{END}",
    ]
    if results:
        path.parent.mkdir(parents=True, exist_ok=True)
        draw(results, plot)
        parts += [
            f"![CIDEr-D of every row; losses; BLEU-4 by length; quality and cost]({plot.name})",
            "## Conditions",
            conditions(next(iter(results.values())), phase, command),
            missing(runs, results),
            "## What each choice does",
            "Means over those runs that are there for every choice, all else being equal. Losses are those of a word "
            "of dev, after true words and after the model's own; BLEU and CIDEr-D are times 100.",
            *(markdown(effects(results, factor)) for factor in range(len(FACTORS))),
            "BLEU-4 of the runs of the last table, by how many words people say of an image in the mean:",
            markdown(by_length(results)),
            "## Every row",
            "Mean ± standard deviation over seeds; parameters are the decoder's.",
            markdown(every_row(runs, results)),
            "To repeat one, with the first seed (`captioner evaluate --model runs/.../best` then scores it):",
            "```sh\n" + "\n".join(commands(runs, phase, command)) + "\n```",
        ]
    else:
        parts.append(missing(runs, results))
    with new_file(path) as file:
        file.write("\n\n".join(filter(None, parts)) + "\n")


def by_hand(path: Path) -> str:
    """Give what people wrote into an older page."""
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    return text.partition(BEGIN)[2].partition(END)[0].strip()


def conditions(example: Result, phase: PhaseConfig, command: Sequence[str]) -> str:
    """Say what all runs have in common, as one of them tells it."""
    decoder, training, data = (
        example.config[section] for section in ("decoder", "training", "data")
    )
    return (
        f"Written by `python scripts/compare.py {shlex.join(command)}`. The budget of every run is {phase.epochs} "
        f"epochs over the images, {data['captions_per_image']} of an image's captions in each, in batches of "
        f"{training['batch_size']} images, on the features of a frozen {example.config['encoder']['trunk']}; "
        f"self-critical training has the last of them ({self_critical_epochs(phase)}), after teacher forcing, since it "
        f"must start from something. Embeddings have {decoder['embed_size']} numbers, hidden states "
        f"{decoder['hidden_size']}, dropout is {decoder['dropout']}. Dev is captioned with "
        f"beam={example.config['decoding']['beam']}. Seconds are those of one core ({example.machine}): training "
        "without features and validation, decoding from features."
    )


def missing(runs: Sequence[Run], results: Mapping[Run, Result]) -> str:
    """Say which runs are not there, in the order in which they would be done."""

    def part(run: Run) -> str:
        return f"{run.row.objective} with seed {run.seed}"

    lacking = [run for run in runs if run not in results]
    if not lacking:
        return ""
    names = []
    for name, group in itertools.groupby(lacking, key=part):
        rows = [f"{run.row.context}-{run.row.cell}" for run in group]
        whole = len(rows) == sum(part(run) == name for run in runs)
        names.append(f"{name}, {'all' if whole else ' '.join(rows)}")
    return f"**Of {len(runs)} runs {len(lacking)} are missing**: {'; '.join(names)}."


def commands(runs: Sequence[Run], phase: PhaseConfig, command: Sequence[str]) -> Iterator[str]:
    """Give the command of the first run of each row."""
    first = {run.row: run for run in reversed(runs)}
    for run in reversed(first.values()):
        settings = [*command, *run.settings(phase), "--output", f"runs/{run.name}"]
        yield f"captioner train {shlex.join(settings)}"


def without_folders(part: str) -> str:
    """Leave of a setting's path only the last name: where data lies differs from machine to machine."""
    key, equals, value = part.partition("=")
    return f"{key}={Path(value).name}" if equals and "/" in value else part
