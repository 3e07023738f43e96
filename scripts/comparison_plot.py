"""The plot of `compare.py`: every row's CIDEr-D above; losses, BLEU-4 by length, and quality against cost below."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from comparison import FACTORS, Row, Run
from comparison_results import Result, matched
from comparison_tables import bleu_of_bins
from pages import new_figure

MARKERS = "os^Dv"


def draw(results: Mapping[Run, Result], path: Path) -> None:
    """Draw it from what is there."""
    objectives = list(dict.fromkeys(run.row.objective for run in results))
    figure = new_figure(13, 7.5)
    above, below = figure.subfigures(2, 1, squeeze=False)[:, 0]
    panels = above.subplots(1, len(objectives), sharey=True, squeeze=False)[0]
    for axes, objective in zip(panels, objectives, strict=True):
        draw_rows(
            axes, {run: result for run, result in results.items() if run.row.objective == objective}
        )
        axes.set_title(objective.replace("_", " "))
    panels[0].set_ylabel("CIDEr-D on dev, x 100")
    panels[-1].legend(fontsize="small")
    losses, lengths, cost = below.subplots(1, 3)
    draw_losses(losses, results)
    draw_lengths(lengths, results)
    draw_cost(cost, results)
    figure.savefig(path, dpi=100)


def draw_rows(axes: Any, results: Mapping[Run, Result]) -> None:
    """One objective: a place for each context, a marker for each cell; the bars are the deviation over seeds."""
    contexts, cells = (list(dict.fromkeys(run.row[factor] for run in results)) for factor in (0, 1))
    for number, cell in enumerate(cells):
        rows = {row.context: values for row, values in by_row(results).items() if row.cell == cell}
        places = [
            contexts.index(context) + 0.2 * (number - (len(cells) - 1) / 2) for context in rows
        ]
        axes.errorbar(
            places,
            [fmean(values) for values in rows.values()],
            yerr=[stdev(values) if len(values) > 1 else 0 for values in rows.values()],
            fmt=MARKERS[number],
            markersize=5,
            capsize=2,
            label=cell,
        )
    axes.set_xticks(
        range(len(contexts)), [context.replace("_", "\n") for context in contexts], fontsize="small"
    )
    axes.set_xlim(-0.5, len(contexts) - 0.5)
    axes.grid(axis="y", alpha=0.3)


def by_row(results: Mapping[Run, Result]) -> dict[Row, list[float]]:
    """CIDEr-D of every seed, times 100."""
    rows = defaultdict(list)
    for run, result in results.items():
        rows[run.row].append(100 * result.scores["CIDEr"])
    return rows


def draw_losses(axes: Any, results: Mapping[Run, Result]) -> None:
    """What the model's own words do to the loss, for each objective."""
    found = matched(results, FACTORS.index("objective"))
    forced = [fmean(result.loss for result in runs) for runs in found.values()]
    free = [fmean(result.free_running_loss for result in runs) for runs in found.values()]
    axes.vlines(range(len(found)), forced, free, color="lightgray", linewidth=3, zorder=1)
    axes.scatter(range(len(found)), forced, label="after true words")
    axes.scatter(range(len(found)), free, label="after its own words")
    axes.set_xticks(range(len(found)), [name.replace("_", "\n") for name in found])
    axes.set_xlim(-0.5, len(found) - 0.5)
    axes.set_title("loss of a word")
    axes.grid(axis="y", alpha=0.3)
    axes.margins(y=0.2)  # for the legend
    axes.legend(fontsize="small", loc="upper center", ncols=2)


def draw_lengths(axes: Any, results: Mapping[Run, Result]) -> None:
    """Whether long captions are harder for some objectives than for others."""
    for number, (name, runs) in enumerate(matched(results, FACTORS.index("objective")).items()):
        means = [100 * fmean(bins) for bins in bleu_of_bins(runs)]
        axes.plot(range(len(means)), means, marker=MARKERS[number], label=name.replace("_", " "))
    groups = next(iter(results.values())).by_length
    axes.set_xticks(
        range(len(groups)), [f"{group.shortest:.1f}–{group.longest:.1f}" for group in groups]
    )
    axes.set_title("BLEU-4 by the length of captions")
    axes.set_xlabel("words that people say of an image")
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")


def draw_cost(axes: Any, results: Mapping[Run, Result]) -> None:
    """What a row's quality costs in training."""
    seconds = defaultdict(list)
    for run, result in results.items():
        seconds[run.row].append(result.training_seconds)
    scores = by_row(results)
    contexts, objectives = (
        list(dict.fromkeys(run.row[factor] for run in results)) for factor in (0, 2)
    )
    for row, values in scores.items():
        colour, marker = f"C{objectives.index(row.objective)}", MARKERS[contexts.index(row.context)]
        axes.scatter(fmean(seconds[row]), fmean(values), color=colour, marker=marker, s=25)
    for number, context in enumerate(contexts):
        axes.scatter([], [], color="gray", marker=MARKERS[number], label=context)
    axes.set_xlim(0, 1.5 * max(map(fmean, seconds.values())))  # with room for the legend
    axes.set_title("CIDEr-D of a row by the cost of training")
    axes.set_xlabel("seconds of one core; colours: objectives")
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small", loc="upper right")
