"""The page of a random search: a table of trials, and each setting plotted against CIDEr-D."""

from __future__ import annotations

import math
import shlex
from collections.abc import Sequence
from pathlib import Path

from captioner.storage import atomic_file
from experiments.random_search.trials import Range, Space, Trial, best_first
from experiments.reporting import markdown_table, new_figure

COLUMNS = 3  # of the figure


def write_page(
    path: Path, trials: Sequence[Trial], space: Space, *, command: Sequence[str]
) -> None:
    """Write the table of trials, and the figure beside it with the suffix .png.

    `command` is the config and the settings that all trials share.
    """
    figure = path.with_suffix(".png")
    best = best_first(trials)[0]
    head = ["trial", "CIDEr-D", "BLEU-4", "step", "seconds", *space]
    failures = [f"Trial {trial.number} failed: {trial.failed}" for trial in trials if trial.failed]
    parts = [
        f"# {len(trials)} trials",
        "Settings drawn at random; scores of the best validation on dev, times 100.",
        markdown_table([head, *map(row, best_first(trials))]),
        *failures,
    ]
    if best.cider is not None:
        plot([trial for trial in trials if trial.cider is not None], space, figure)
        parts += [
            f"![CIDEr-D by each setting]({figure.name})",
            f"The best:\n\n```sh\ncaptioner train {shlex.join([*command, *best.overrides])}\n```",
        ]
    with atomic_file(path) as file:
        file.write("\n\n".join(parts) + "\n")


def row(trial: Trial) -> list[str]:
    """Return the cells of a trial."""
    scores = [
        "failed" if trial.cider is None else f"{100 * trial.cider:.1f}",
        "" if trial.bleu_4 is None else f"{100 * trial.bleu_4:.1f}",
        "" if trial.step is None else f"{trial.step}",
        "" if trial.seconds is None else f"{trial.seconds:.0f}",
    ]
    return [f"{trial.number}", *scores, *(f"{value}" for value in trial.settings.values())]


def plot(trials: Sequence[Trial], space: Space, path: Path) -> None:
    """Plot each setting against CIDEr-D, with the best trial in another color."""
    rows = -(-len(space) // COLUMNS)
    figure = new_figure(10, 2.6 * rows)
    panels = figure.subplots(rows, COLUMNS, sharey=True, squeeze=False).flat
    scores = [100 * (trial.cider or 0.0) for trial in trials]
    colors = ["C1" if score == max(scores) else "C0" for score in scores]
    for (key, values), axes in zip(space.items(), panels, strict=False):
        drawn = [trial.settings[key] for trial in trials]
        if isinstance(values, Range) and values.log:
            axes.set_xscale("log")
            ticks = [values.low, math.sqrt(values.low * values.high), values.high]
            axes.set_xticks(ticks, [f"{tick:.1e}" for tick in ticks])
            axes.minorticks_off()
        elif isinstance(values, list):
            drawn = [values.index(value) for value in drawn]
            axes.set_xticks(range(len(values)), [str(value) for value in values])
            axes.set_xlim(-0.5, len(values) - 0.5)
        axes.scatter(drawn, scores, s=18, color=colors)
        axes.set_xlabel(key)
        axes.grid(alpha=0.3)
    for axes in panels:  # `flat` is an iterator: these are the panels without a setting
        axes.set_axis_off()
    for axes in figure.axes[::COLUMNS]:
        axes.set_ylabel("CIDEr-D, x 100")
    figure.savefig(path, dpi=100)
