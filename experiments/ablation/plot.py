"""The figure of the ablation: CIDEr-D of every row; losses; BLEU-4 by length; quality and cost."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from statistics import fmean
from typing import Any

from experiments.ablation.certainty import cider_by_row, row_margins
from experiments.ablation.grid import FACTORS, Row, Run
from experiments.ablation.results import Result, bleu_by_bin, matched, timed_alike
from experiments.reporting import new_figure

MARKERS = "os^DvP*X"


def draw(results: Mapping[Run, Result], path: Path) -> None:
    """Draw the available results."""
    objectives = list(dict.fromkeys(run.row.objective for run in results))
    figure = new_figure(13, 7.5)
    top, bottom = figure.subfigures(2, 1, squeeze=False)[:, 0]
    panels = top.subplots(1, len(objectives), sharey=True, squeeze=False)[0]
    margins = row_margins(cider_by_row(results))
    for axes, objective in zip(panels, objectives, strict=True):
        of_objective = {
            run: each for run, each in results.items() if run.row.objective == objective
        }
        draw_rows(axes, of_objective, margins)
        axes.set_title(objective.replace("_", " "))
    panels[0].set_ylabel("CIDEr-D on dev, x 100")
    panels[-1].legend(fontsize="small")
    losses, lengths, cost = bottom.subplots(1, 3)
    draw_losses(losses, results)
    draw_lengths(lengths, results)
    draw_cost(cost, results)
    figure.savefig(path, dpi=100)


def draw_rows(axes: Any, results: Mapping[Run, Result], margins: Mapping[Row, float]) -> None:
    """Draw the rows of one objective, with the 95 % intervals of their means as error bars.

    The x axis has the contexts; each cell has a marker.
    """
    contexts, cells = (list(dict.fromkeys(run.row[factor] for run in results)) for factor in (0, 1))
    for number, cell in enumerate(cells):
        rows = {row: values for row, values in cider_by_row(results).items() if row.cell == cell}
        shift = 0.2 * (number - (len(cells) - 1) / 2)
        axes.errorbar(
            [contexts.index(row.context) + shift for row in rows],
            [fmean(values) for values in rows.values()],
            yerr=[margins.get(row, 0) for row in rows],
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


def draw_losses(axes: Any, results: Mapping[Run, Result]) -> None:
    """Draw both losses of each objective: with teacher forcing, and free running."""
    groups = matched(results, FACTORS.index("objective"))
    forced = [fmean(result.loss for result in group) for group in groups.values()]
    free = [fmean(result.free_running_loss for result in group) for group in groups.values()]
    axes.vlines(range(len(groups)), forced, free, color="lightgray", linewidth=3, zorder=1)
    axes.scatter(range(len(groups)), forced, label="teacher forcing")
    axes.scatter(range(len(groups)), free, label="free running")
    axes.set_xticks(range(len(groups)), [name.replace("_", "\n") for name in groups])
    axes.set_xlim(-0.5, len(groups) - 0.5)
    axes.set_title("loss of a token")
    axes.grid(axis="y", alpha=0.3)
    axes.margins(y=0.2)  # for the legend
    axes.legend(fontsize="small", loc="upper center", ncols=2)


def draw_lengths(axes: Any, results: Mapping[Run, Result]) -> None:
    """Draw the BLEU-4 of each objective by the length of the references."""
    for number, (name, group) in enumerate(matched(results, FACTORS.index("objective")).items()):
        means = [100 * fmean(values) for values in bleu_by_bin(group)]
        axes.plot(range(len(means)), means, marker=MARKERS[number], label=name.replace("_", " "))
    bins = next(iter(results.values())).by_length
    axes.set_xticks(range(len(bins)), [f"{each.shortest:.1f}–{each.longest:.1f}" for each in bins])
    axes.set_title("BLEU-4 by the length of the references")
    axes.set_xlabel("mean number of words of an image's references")
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")


def draw_cost(axes: Any, results: Mapping[Run, Result]) -> None:
    """Draw the CIDEr-D of each row by its training time, of runs on the same machine."""
    seconds = defaultdict(list)
    for run, result in timed_alike(results).items():
        seconds[run.row].append(result.training_seconds)
    contexts, objectives = (
        list(dict.fromkeys(run.row[factor] for run in results)) for factor in (0, 2)
    )
    for row, values in cider_by_row(results).items():
        if row not in seconds:
            continue
        color, marker = f"C{objectives.index(row.objective)}", MARKERS[contexts.index(row.context)]
        axes.scatter(fmean(seconds[row]), fmean(values), color=color, marker=marker, s=25)
    for number, context in enumerate(contexts):
        axes.scatter([], [], color="gray", marker=MARKERS[number], label=context)
    axes.set_xlim(0, 1.5 * max(map(fmean, seconds.values())))  # leaves room for the legend
    axes.set_title("CIDEr-D of a row by its training time")
    axes.set_xlabel("seconds of one core; colors are objectives")
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small", loc="upper right")
