"""Bootstrap resamples and percentile intervals."""

import random
import time
from collections import Counter

import numpy as np
import pytest

from captioner.metrics.bleu import Bleu
from captioner.metrics.meteor import Meteor
from captioner.metrics.scorer import (
    RESAMPLES,
    Scorer,
    compute_metrics,
    percentile_interval,
    resample_sums,
)


def test_a_resample_draws_as_many_rows_as_there_are_with_replacement():
    rows = np.eye(20)
    counts = resample_sums(rows)  # the sums of an identity matrix count the draws of each row
    assert counts.shape == (20, RESAMPLES)
    assert (counts.sum(axis=0) == 20).all()
    assert (counts.max(axis=0) > 1).all()
    assert counts.mean(axis=1) == pytest.approx(1, abs=0.15)


def test_rows_are_drawn_whole_and_the_same_in_every_run():
    rows = np.random.default_rng(1).normal(size=(50, 2))
    sums = resample_sums(np.hstack([rows, 2 * rows]))
    assert sums[2:] == pytest.approx(2 * sums[:2])
    assert (resample_sums(rows) == resample_sums(rows)).all()


def test_the_interval_of_a_mean_is_that_of_the_normal_distribution():
    rows = np.random.default_rng(1).normal(5, 3, size=(2_000, 1))
    low, high = percentile_interval(resample_sums(rows)[0] / len(rows))
    error = 1.96 * rows.std() / len(rows) ** 0.5
    assert (low, high) == pytest.approx((rows.mean() - error, rows.mean() + error), abs=0.1 * error)


def test_sums_over_a_resample_score_as_the_set_with_repeated_images(random_captions):
    references, candidates = random_captions(20, shortest=2)
    scorer = Scorer(
        {i: [" ".join(words) for words in captions] for i, captions in enumerate(references)}
    )
    rows = scorer.score({i: " ".join(words) for i, words in enumerate(candidates)}).statistics
    drawn = random.Random(0).choices(range(20), k=20)
    assert max(Counter(drawn).values()) > 1
    metrics = compute_metrics(rows[drawn].sum(axis=0)[:, None], "METEOR")
    again = [references[i] for i in drawn], [candidates[i] for i in drawn]
    assert metrics["Bleu_4"].item() == pytest.approx(Bleu(again[0]).score(again[1])[3])
    assert metrics["METEOR"].item() == pytest.approx(Meteor(again[0]).score(again[1])[0])


def test_a_thousand_resamples_of_five_thousand_images_take_under_two_seconds():
    rows = np.ones((5_000, 20))
    before = time.process_time()
    resample_sums(rows)
    assert time.process_time() - before < 2
