"""How certain a mean over seeds is, and which differences between choices are.

Two seeds of the same row differ as much as two close rows do. All intervals are for 95 %, after
Student's t. Where several comparisons are made at once, each gets its share of the 5 %
(Bonferroni), so that all of them hold with 95 %.
"""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from statistics import NormalDist, fmean, stdev, variance
from typing import NamedTuple

from experiments.ablation.grid import Row, Run
from experiments.ablation.results import Result, matched

ERROR_RATE = 0.05


class Difference(NamedTuple):
    """The mean difference of two choices, everything else being equal."""

    better: str
    worse: str
    pairs: int  # of runs that differ in this choice only
    mean: float  # of CIDEr-D, times 100
    margin: float  # half the interval

    @property
    def is_certain(self) -> bool:
        """Whether the interval excludes zero."""
        return self.mean > self.margin


def cider_by_row(results: Mapping[Run, Result]) -> dict[Row, list[float]]:
    """Return the CIDEr-D of each seed, times 100."""
    rows = defaultdict(list)
    for run, result in results.items():
        rows[run.row].append(100 * result.scores["CIDEr"])
    return dict(rows)


def student_quantile(probability: float, freedom: int) -> float:
    """Return the quantile of Student's t (Abramowitz and Stegun 1964, 26.7.5).

    The expansion is exact to 0.1 % from 10 degrees of freedom on, where 95 % are wanted.
    """
    z = NormalDist().inv_cdf(probability)
    first = (z**3 + z) / 4
    second = (5 * z**5 + 16 * z**3 + 3 * z) / 96
    third = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384
    return z + first / freedom + second / freedom**2 + third / freedom**3


def seed_deviation(ciders: Mapping[Row, Sequence[float]]) -> dict[str, tuple[float, int]]:
    """Return, for each context, the standard deviation over seeds and its degrees of freedom.

    Three seeds alone say little about their deviation, so the variances of all rows of a context
    are pooled. Contexts are not: their seeds differ by different amounts.
    """
    squares: dict[str, list[tuple[float, int]]] = defaultdict(list)
    for row, values in ciders.items():
        if len(values) > 1:
            squares[row.context].append((variance(values), len(values) - 1))
    pooled = {}
    for context, groups in squares.items():
        freedom = sum(count for _, count in groups)
        total = sum(square * count for square, count in groups)
        pooled[context] = (math.sqrt(total / freedom), freedom)
    return pooled


def row_margins(ciders: Mapping[Row, Sequence[float]]) -> dict[Row, float]:
    """Return half the interval of each row's mean CIDEr-D."""
    deviations = seed_deviation(ciders)
    margins = {}
    for row, values in ciders.items():
        if row.context in deviations:
            deviation, freedom = deviations[row.context]
            quantile = student_quantile(1 - ERROR_RATE / 2, freedom)
            margins[row] = quantile * deviation / math.sqrt(len(values))
    return margins


def best_rows(ciders: Mapping[Row, Sequence[float]]) -> list[Row]:
    """Return the row with the highest mean, and those not distinguishable from it, best first."""
    deviations = seed_deviation(ciders)
    ranked = sorted(ciders, key=lambda row: -fmean(ciders[row]))
    best = ranked[0]
    level = 1 - ERROR_RATE / 2 / max(1, len(ranked) - 1)
    equal = [best]
    for row in ranked[1:]:
        if not {row.context, best.context} <= deviations.keys():
            continue
        errors = [
            (deviations[each.context][0] ** 2 / len(ciders[each]), deviations[each.context][1])
            for each in (best, row)
        ]
        quantile = student_quantile(level, min(freedom for _, freedom in errors))
        margin = quantile * math.sqrt(sum(square for square, _ in errors))
        if fmean(ciders[best]) - fmean(ciders[row]) <= margin:
            equal.append(row)
    return equal


def differences(results: Mapping[Run, Result], factor: int) -> list[Difference]:
    """Compare each two choices of a factor over the runs that differ in nothing else."""
    choices = matched(results, factor)
    pairs = list(itertools.combinations(choices, 2))
    found = []
    for one, other in pairs:
        gaps = [
            100 * (first.scores["CIDEr"] - second.scores["CIDEr"])
            for first, second in zip(choices[one], choices[other], strict=True)
        ]
        if len(gaps) < 2:
            continue
        quantile = student_quantile(1 - ERROR_RATE / 2 / len(pairs), len(gaps) - 1)
        margin = quantile * stdev(gaps) / math.sqrt(len(gaps))
        mean = fmean(gaps)
        better, worse = (one, other) if mean >= 0 else (other, one)
        found.append(Difference(better, worse, len(gaps), abs(mean), margin))
    return sorted(found, key=lambda each: -each.mean)
