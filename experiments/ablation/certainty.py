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
from statistics import NormalDist, fmean, median, stdev, variance
from typing import NamedTuple

from experiments.ablation.grid import Row, Run
from experiments.ablation.results import Result, matched

ERROR_RATE = 0.05
OUTLIER = 4.0


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


class Deviation(NamedTuple):
    """How much seeds differ."""

    value: float  # the standard deviation
    freedom: int  # degrees of freedom


def seed_deviations(ciders: Mapping[Row, Sequence[float]]) -> dict[Row, Deviation]:
    """Return the standard deviation over seeds of each row that has several.

    Three seeds alone say little about it, so it is estimated from all rows of a context, by the
    median of their variances: a run that collapsed does not widen the intervals of other rows. A
    row whose own deviation is more than `OUTLIER` times as large has such a run, and keeps its own.
    """
    groups: dict[str, list[tuple[float, int]]] = defaultdict(list)
    for row, values in ciders.items():
        if len(values) > 1:
            groups[row.context].append((variance(values), len(values) - 1))
    deviations = {}
    for row, values in ciders.items():
        if len(values) < 2:
            continue
        squares = [square for square, _ in groups[row.context]]
        freedom = [count for _, count in groups[row.context]]
        typical = math.sqrt(median(squares) / median_of_chi_square(round(fmean(freedom))))
        own = stdev(values)
        value = own if own > OUTLIER * typical else typical
        deviations[row] = Deviation(value, sum(freedom))
    return deviations


def median_of_chi_square(freedom: int) -> float:
    """Return the median of a chi-square variable over its mean (Wilson and Hilferty 1931)."""
    return (1 - 2 / (9 * freedom)) ** 3


def row_margins(ciders: Mapping[Row, Sequence[float]]) -> dict[Row, float]:
    """Return half the interval of the mean CIDEr-D of each row that has several seeds."""
    return {
        row: student_quantile(1 - ERROR_RATE / 2, freedom) * deviation / math.sqrt(len(ciders[row]))
        for row, (deviation, freedom) in seed_deviations(ciders).items()
    }


def best_rows(ciders: Mapping[Row, Sequence[float]]) -> list[Row]:
    """Return the row with the highest mean, and those not distinguishable from it, best first.

    Rows with a single seed are left out: nothing is known of how their seeds differ.
    """
    deviations = seed_deviations(ciders)
    best, *others = sorted(deviations, key=lambda row: -fmean(ciders[row]))
    level = 1 - ERROR_RATE / 2 / max(1, len(others))
    equal = [best]
    for row in others:
        errors = [deviations[each].value ** 2 / len(ciders[each]) for each in (best, row)]
        freedom = min(deviations[each].freedom for each in (best, row))
        margin = student_quantile(level, freedom) * math.sqrt(sum(errors))
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
