"""Differences smaller than those between seeds are called not distinguishable."""

import math
from statistics import fmean, stdev, variance

import pytest

from experiments.ablation.certainty import (
    best_rows,
    differences,
    median_of_chi_square,
    row_margins,
    seed_deviations,
    student_quantile,
)
from experiments.ablation.grid import Row, all_runs
from experiments.ablation.results import Result

A, B, C = (Row("attention", cell, "teacher_forcing") for cell in ("lstm", "gru", "rnn"))


def result(run, cider):
    return Result(run, {}, {"CIDEr": cider}, 3.0, 3.5, 1_000, 10.0, 50.0, [], "a machine")


@pytest.mark.parametrize(  # a table of Student's t
    ("probability", "freedom", "quantile"),
    [(0.975, 10, 2.228), (0.975, 24, 2.064), (0.995, 30, 2.750), (0.975, 120, 1.980)],
)
def test_quantiles_are_those_of_the_table(probability, freedom, quantile):
    assert student_quantile(probability, freedom) == pytest.approx(quantile, abs=0.003)


def test_the_deviation_is_the_typical_one_of_the_rows_of_a_context():
    ciders = {A: [30.0, 32.0, 34.0], B: [40.0, 43.0, 46.0], C: [20.0, 21.0, 22.0]}
    elsewhere = {Row("none", "rnn", "teacher_forcing"): [1.0, 9.0, 17.0]}
    deviations = seed_deviations(ciders | elsewhere)
    # of the variances 4, 9 and 1 the median is 4; half of all such estimates are below 0.70 of it
    typical = math.sqrt(4 / median_of_chi_square(2))
    assert deviations[A] == (pytest.approx(typical), 6)
    assert deviations[A] == deviations[B] == deviations[C]
    margin = student_quantile(0.975, 6) * typical / math.sqrt(3)
    assert row_margins(ciders)[B] == pytest.approx(margin)


def test_a_run_that_collapsed_widens_only_the_interval_of_its_row():
    sound = {A: [30.0, 32.0, 34.0], B: [40.0, 41.0, 42.0]}
    collapsed = {C: [36.0, 2.0, 35.0]}
    margins = row_margins(sound | collapsed)
    assert margins[A] == margins[B] < 4
    own = seed_deviations(sound | collapsed)[C]
    assert own == (pytest.approx(stdev(collapsed[C])), 6)
    assert margins[C] > 15


def test_the_median_of_chi_square_is_that_of_the_table():
    assert median_of_chi_square(2) * 2 == pytest.approx(1.386, abs=0.03)
    assert median_of_chi_square(10) * 10 == pytest.approx(9.342, abs=0.01)


def test_a_row_with_one_seed_has_no_interval():
    ciders = {A: [40.0, 41.0], B: [99.0]}
    assert B not in row_margins(ciders)
    assert best_rows(ciders) == [A]


def test_rows_within_the_noise_of_the_best_equal_it():
    ciders = {A: [40.0, 41.0, 42.0], B: [39.5, 40.5, 41.5], C: [20.0, 21.0, 22.0]}
    assert best_rows(ciders) == [A, B]
    wider = {row: [value * 5 for value in values] for row, values in ciders.items()}
    assert best_rows(wider) == [A, B]  # the scale does not matter
    assert best_rows({A: [40.0, 40.1, 40.2], B: [39.5, 39.6, 39.7]}) == [A]


def test_a_difference_is_certain_if_its_interval_excludes_zero():
    runs = all_runs(["none"], ["lstm", "gru", "rnn"], ["teacher_forcing"], range(6))
    noise = [0.00, 0.01, 0.02, 0.00, 0.01, 0.02]
    ciders = {"lstm": 0.30, "gru": 0.40, "rnn": 0.301}
    swapped = {"lstm": noise, "gru": noise[::-1], "rnn": noise[1:] + noise[:1]}
    results = {
        run: result(run, ciders[run.row.cell] + swapped[run.row.cell][run.seed]) for run in runs
    }
    found = {(each.better, each.worse): each for each in differences(results, factor=1)}
    assert found["gru", "lstm"].is_certain
    assert found["gru", "rnn"].is_certain
    close = found["rnn", "lstm"]
    gaps = [
        100 * (0.001 + other - one)
        for one, other in zip(swapped["lstm"], swapped["rnn"], strict=True)
    ]
    assert close.pairs == 6
    assert close.mean == pytest.approx(fmean(gaps))
    quantile = student_quantile(1 - 0.05 / 2 / 3, 5)  # three comparisons share the 5 %
    assert close.margin == pytest.approx(quantile * math.sqrt(variance(gaps) / 6))
    assert not close.is_certain
