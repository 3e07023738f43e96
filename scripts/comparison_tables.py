"""The tables of `compare.py`: every row, what each choice does, and BLEU-4 by the length of captions."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from statistics import fmean, stdev

from comparison import FACTORS, Row, Run
from comparison_results import Result, matched
from pages import NOTHING

SCORES = {
    "Bleu_1": "BLEU-1",
    "Bleu_2": "BLEU-2",
    "Bleu_3": "BLEU-3",
    "Bleu_4": "BLEU-4",
    "CIDEr": "CIDEr-D",
}
COSTS = ("training, s", "captions/s")


def every_row(runs: Sequence[Run], results: Mapping[Run, Result]) -> Iterator[list[str]]:
    """Mean and deviation over seeds, context by context, also of rows that nothing is known of yet."""
    yield [*FACTORS, "seeds", *SCORES.values(), "parameters", *COSTS]
    choices = (dict.fromkeys(run.row[factor] for run in runs) for factor in range(len(FACTORS)))
    for row in itertools.starmap(Row, itertools.product(*choices)):
        asked = [run for run in runs if run.row == row]
        found = [results[run] for run in asked if run in results]
        cells = [
            *row,
            f"{len(found)}" if len(found) == len(asked) else f"{len(found)} of {len(asked)}",
        ]
        if not found:
            yield [*cells, *[NOTHING] * (len(SCORES) + 1 + len(COSTS))]
            continue
        scores = [spread([100 * result.scores[name] for result in found]) for name in SCORES]
        yield [*cells, *scores, f"{found[0].parameters / 1e6:.2f} M", *costs(found)]


def effects(results: Mapping[Run, Result], factor: int) -> Iterator[list[str]]:
    """What one choice does to quality, losses and cost."""
    yield [FACTORS[factor], "runs", "BLEU-4", "CIDEr-D", "loss", "free-running loss", "gap", *COSTS]
    for choice, found in matched(results, factor).items():
        scores = [
            f"{100 * fmean(result.scores[name] for result in found):.1f}"
            for name in ("Bleu_4", "CIDEr")
        ]
        forced = fmean(result.loss for result in found)
        free = fmean(result.free_running_loss for result in found)
        losses = [f"{forced:.2f}", f"{free:.2f}", f"{free - forced:.2f}"]
        yield [choice, f"{len(found)}", *scores, *losses, *costs(found)]


def by_length(results: Mapping[Run, Result]) -> Iterator[list[str]]:
    """BLEU-4 of images that people said little or much of, by what the model was taught by."""
    groups = next(iter(results.values())).by_length
    yield [
        "objective",
        *(
            f"{group.shortest:.1f} to {group.longest:.1f} ({group.images} images)"
            for group in groups
        ),
    ]
    for objective, found in matched(results, FACTORS.index("objective")).items():
        yield [objective, *(f"{100 * fmean(bins):.1f}" for bins in bleu_of_bins(found))]


def bleu_of_bins(found: Sequence[Result]) -> list[list[float]]:
    """For each group of images, the BLEU-4 of each run, as fractions."""
    return [
        [group.bleu_4 for group in groups]
        for groups in zip(*(one.by_length for one in found), strict=True)
    ]


def costs(found: Sequence[Result]) -> list[str]:
    """What it costs, in the mean."""
    training = fmean(result.training_seconds for result in found)
    return [f"{training:.0f}", f"{fmean(result.captions_per_second for result in found):.0f}"]


def spread(values: Sequence[float]) -> str:
    """Mean and standard deviation (of the sample), or the one value there is."""
    return f"{fmean(values):.1f} ± {stdev(values):.1f}" if len(values) > 1 else f"{values[0]:.1f}"
