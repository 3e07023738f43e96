"""The page of the ablation: conditions, missing runs, figure, tables and commands."""

from __future__ import annotations

import itertools
import shlex
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import fmean, stdev

from captioner.config.training import PhaseConfig
from captioner.storage import atomic_file
from experiments.ablation.certainty import (
    OUTLIER,
    best_rows,
    cider_by_row,
    differences,
    row_margins,
)
from experiments.ablation.grid import FACTORS, Row, Run, self_critical_epochs
from experiments.ablation.plot import draw
from experiments.ablation.results import Result, bleu_by_bin, matched, timed_alike
from experiments.reporting import MISSING, markdown_table

# The text between these two lines of a page stays when the page is written again.
BEGIN = "<!-- hand-written: kept when the page is rewritten -->"
END = "<!-- end of hand-written -->"
_FORMER_MARKS = (
    "<!-- by hand: kept when the rest is written anew -->",
    "<!-- the end of it -->",
)
METRICS = {
    "Bleu_1": "BLEU-1",
    "Bleu_2": "BLEU-2",
    "Bleu_3": "BLEU-3",
    "Bleu_4": "BLEU-4",
    "CIDEr": "CIDEr-D",
}
COSTS = ("training, s", "captions/s")


def write_page(
    path: Path,
    runs: Sequence[Run],
    results: Mapping[Run, Result],
    failures: Mapping[Run, str],
    *,
    phase: PhaseConfig,
    command: Sequence[str],
) -> None:
    """Write the page, and its figure beside it with the suffix .png.

    Args:
        path: a Markdown file. Of an older page, the text between BEGIN and END is kept.
        runs: all runs, in the order in which they are trained.
        results: of the runs that have one.
        failures: why a run has none, of those that failed.
        phase: the epochs and the learning rate of all runs.
        command: the config and the settings that all runs share.
    """
    command = [without_folders(part) for part in command]
    figure = path.with_suffix(".png")
    parts = [
        "# Ablation: contexts, cells and training objectives",
        f"{BEGIN}\n{kept_text(path)}\n{END}",
    ]
    if results:
        path.parent.mkdir(parents=True, exist_ok=True)
        draw(results, figure)
        parts += [
            f"![CIDEr-D of every row; losses; BLEU-4 by length; quality and cost]({figure.name})",
            "## Conditions",
            conditions(list(results.values()), phase, command),
            missing_runs(runs, results, failures),
            "## The effect of each choice",
            "Means over the runs that exist for every choice, everything else being equal. Losses "
            "are those of a token of dev, with teacher forcing and free running; BLEU and CIDEr-D "
            "are times 100.",
            *(markdown_table(effects(results, factor)) for factor in range(len(FACTORS))),
            "BLEU-4 of the runs of the last table, by the mean number of words of an image's "
            "references:",
            markdown_table(by_length(results)),
            "## Which differences are certain",
            "The mean difference in CIDEr-D of runs that differ in one choice only, with its 95 % "
            "interval (Student's t over the pairs; the 5 % are shared by the comparisons of a "
            "table, after Bonferroni).",
            *(markdown_table(certainty(results, factor)) for factor in range(len(FACTORS))),
            equal_rows(results),
            "## Every row",
            "Mean ± standard deviation over seeds. The interval is the 95 % interval of the mean "
            "CIDEr-D, with the typical deviation of the rows of a context; a row that deviates "
            f"more than {OUTLIER:g} times as much has its own. Parameters are the decoder's.",
            markdown_table(every_row(runs, results, failures)),
            "To repeat a row with the first seed (`captioner evaluate --model runs/.../best` "
            "then scores it):",
            "<!-- not run: a training for each row -->\n```sh\n"
            + "\n".join(commands(runs, phase, command))
            + "\n```",
        ]
    else:
        parts.append(missing_runs(runs, results, failures))
    with atomic_file(path) as file:
        file.write("\n\n".join(filter(None, parts)) + "\n")


def kept_text(path: Path) -> str:
    """Return the text that somebody wrote into an older page."""
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    for begin, end in ((BEGIN, END), _FORMER_MARKS):
        if begin in text:
            return text.partition(begin)[2].partition(end)[0].strip()
    return ""


def conditions(results: Sequence[Result], phase: PhaseConfig, command: Sequence[str]) -> str:
    """Describe what all runs have in common, from the settings of one of them."""
    example = results[0]
    machines = Counter(result.machine for result in results).most_common()
    (machine, count), *others = machines
    elsewhere = "".join(f", {number} on {name}" for name, number in others)
    decoder, training, data = (
        example.config[section] for section in ("decoder", "training", "data")
    )
    return (
        f"Written by `python -m experiments.ablation.ablation {shlex.join(command)}`. Every run "
        f"trains for {phase.epochs} epochs, with {data['captions_per_image']} of an image's "
        f"captions in each epoch, in batches of {training['batch_size']} images, on the features "
        f"of a frozen {example.config['encoder']['trunk']}. The last epochs of self-critical runs "
        f"({self_critical_epochs(phase)}) are self-critical, the others are teacher forcing. "
        f"Embedding size {decoder['embed_size']}, hidden size {decoder['hidden_size']}, dropout "
        f"{decoder['dropout']}. Dev is captioned with beam={example.config['decoding']['beam']}. "
        f"Seconds are those of one core ({machine}): training without features and validation, "
        "decoding from features."
        + (f" {count} runs were made there{elsewhere}, whose seconds do not count." * bool(others))
    )


def missing_runs(
    runs: Sequence[Run], results: Mapping[Run, Result], failures: Mapping[Run, str]
) -> str:
    """List the runs without a result, in the order in which they would be trained."""

    def group_name(run: Run) -> str:
        return f"{run.row.objective} with seed {run.seed}"

    failed = [f"{run.name}: {failures[run]}" for run in runs if run in failures]
    missing = [run for run in runs if run not in results and run not in failures]
    parts = [f"**Of {len(runs)} runs {len(failed)} failed**: {'; '.join(failed)}."] * bool(failed)
    names = []
    for name, group in itertools.groupby(missing, key=group_name):
        rows = [f"{run.row.context}-{run.row.cell}" for run in group]
        is_whole = len(rows) == sum(group_name(run) == name for run in runs)
        names.append(f"{name}, {'all' if is_whole else ' '.join(rows)}")
    if names:
        parts.append(f"**Of {len(runs)} runs {len(missing)} are missing**: {'; '.join(names)}.")
    return "\n\n".join(parts)


def certainty(results: Mapping[Run, Result], factor: int) -> Iterator[list[str]]:
    """Yield the table of the differences between the choices of a factor."""
    yield [f"better {FACTORS[factor]}", "worse", "pairs", "CIDEr-D", "95 % interval", ""]
    for each in differences(results, factor):
        interval = f"{each.mean - each.margin:.1f} to {each.mean + each.margin:.1f}"
        verdict = "" if each.is_certain else "not distinguishable"
        yield [each.better, each.worse, f"{each.pairs}", f"+{each.mean:.1f}", interval, verdict]


def equal_rows(results: Mapping[Run, Result]) -> str:
    """Name the best row, and the rows that cannot be told from it."""
    ciders = cider_by_row(results)
    if all(len(values) < 2 for values in ciders.values()):
        return ""
    best, *equal = (" ".join(row) for row in best_rows(ciders))
    return f"The best row is {best}. " + (
        f"Not distinguishable from it: {', '.join(equal)}."
        if equal
        else "It is distinguishable from every other."
    )


def effects(results: Mapping[Run, Result], factor: int) -> Iterator[list[str]]:
    """Yield the table of one factor: quality, losses and cost of each choice."""
    yield [FACTORS[factor], "runs", "BLEU-4", "CIDEr-D", "loss", "free-running loss", "gap", *COSTS]
    timed = matched(timed_alike(results), factor)
    for choice, group in matched(results, factor).items():
        scores = [
            f"{100 * fmean(result.scores[name] for result in group):.1f}"
            for name in ("Bleu_4", "CIDEr")
        ]
        forced = fmean(result.loss for result in group)
        free = fmean(result.free_running_loss for result in group)
        losses = [f"{forced:.2f}", f"{free:.2f}", f"{free - forced:.2f}"]
        yield [choice, f"{len(group)}", *scores, *losses, *costs(timed.get(choice, []))]


def by_length(results: Mapping[Run, Result]) -> Iterator[list[str]]:
    """Yield the table of BLEU-4 by objective and by the length of the references."""
    bins = next(iter(results.values())).by_length
    yield [
        "objective",
        *(f"{each.shortest:.1f} to {each.longest:.1f} ({each.images} images)" for each in bins),
    ]
    for objective, group in matched(results, FACTORS.index("objective")).items():
        yield [objective, *(f"{100 * fmean(values):.1f}" for values in bleu_by_bin(group))]


def every_row(
    runs: Sequence[Run], results: Mapping[Run, Result], failures: Mapping[Run, str]
) -> Iterator[list[str]]:
    """Yield the table of all rows, sorted by context, also those without a result."""
    margins = row_margins(cider_by_row(results))
    timed = timed_alike(results)
    yield [*FACTORS, "seeds", *METRICS.values(), "interval", "parameters", *COSTS]
    choices = (dict.fromkeys(run.row[factor] for run in runs) for factor in range(len(FACTORS)))
    for row in itertools.starmap(Row, itertools.product(*choices)):
        of_row = [run for run in runs if run.row == row]
        group = [results[run] for run in of_row if run in results]
        is_whole = len(group) == len(of_row)
        failed = sum(run in failures for run in of_row)
        seeds = f"{len(group)}" if is_whole else f"{len(group)} of {len(of_row)}"
        cells = [*row, seeds + (f", {failed} failed" if failed else "")]
        if not group:
            yield [*cells, *[MISSING] * (len(METRICS) + 2 + len(COSTS))]
            continue
        scores = [spread([100 * result.scores[name] for result in group]) for name in METRICS]
        mean = fmean(100 * result.scores["CIDEr"] for result in group)
        margin = margins.get(row)
        interval = MISSING if margin is None else f"{mean - margin:.1f} to {mean + margin:.1f}"
        parameters = f"{group[0].parameters / 1e6:.2f} M"
        cost = costs([timed[run] for run in of_row if run in timed])
        yield [*cells, *scores, interval, parameters, *cost]


def costs(results: Sequence[Result]) -> list[str]:
    """Return the mean training time and the mean captions per second of runs on one machine."""
    if not results:
        return [MISSING, MISSING]
    seconds = fmean(result.training_seconds for result in results)
    speed = fmean(result.captions_per_second for result in results)
    return [f"{seconds:.0f}", f"{speed:.0f}"]


def spread(values: Sequence[float]) -> str:
    """Return the mean and the standard deviation of the sample, or the only value."""
    return f"{fmean(values):.1f} ± {stdev(values):.1f}" if len(values) > 1 else f"{values[0]:.1f}"


def commands(runs: Sequence[Run], phase: PhaseConfig, command: Sequence[str]) -> Iterator[str]:
    """Yield the command of the first run of each row."""
    first = {run.row: run for run in reversed(runs)}
    for run in reversed(first.values()):
        settings = [*command, *run.settings(phase), "--output", f"runs/{run.name}"]
        yield f"captioner train {shlex.join(settings)}"


def without_folders(part: str) -> str:
    """Return key=value with only the last name of a path: folders differ between machines."""
    key, equals, value = part.partition("=")
    return f"{key}={Path(value).name}" if equals and "/" in value else part
