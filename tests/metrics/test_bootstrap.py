"""The bootstrap tells how far a score of other images of the same kind may lie."""

import random
import time
from collections import Counter

import numpy as np
import pytest

from captioner.metrics.bleu import Bleu
from captioner.metrics.bootstrap import RESAMPLES, interval, resample
from captioner.metrics.meteor import Meteor
from captioner.metrics.scorer import Scorer, figures_of


def test_every_resample_has_as_many_rows_as_there_are_and_some_of_them_twice():
    rows = np.eye(20)
    counts = resample(rows)  # with a column for each row, sums say how often each was drawn
    assert counts.shape == (20, RESAMPLES)
    assert (counts.sum(axis=0) == 20).all()
    assert (counts.max(axis=0) > 1).all()
    assert counts.mean(axis=1) == pytest.approx(1, abs=0.15)


def test_rows_are_drawn_whole_and_the_same_in_every_run():
    rows = np.random.default_rng(1).normal(size=(50, 2))
    sums = resample(np.hstack([rows, 2 * rows]))
    assert sums[2:] == pytest.approx(2 * sums[:2])
    assert (resample(rows) == resample(rows)).all()


def test_the_interval_of_a_mean_is_that_of_the_normal_distribution():
    rows = np.random.default_rng(1).normal(5, 3, size=(2_000, 1))
    low, high = interval(resample(rows)[0] / len(rows))
    error = 1.96 * rows.std() / len(rows) ** 0.5
    assert (low, high) == pytest.approx((rows.mean() - error, rows.mean() + error), abs=0.1 * error)


def test_sums_over_drawn_images_score_as_a_set_that_holds_them_so_often(random_captions):
    references, candidates = random_captions(20, shortest=2)
    scorer = Scorer(
        {i: [" ".join(words) for words in captions] for i, captions in enumerate(references)}
    )
    rows = scorer.score({i: " ".join(words) for i, words in enumerate(candidates)}).statistics
    drawn = random.Random(0).choices(range(20), k=20)
    assert max(Counter(drawn).values()) > 1
    figures = figures_of(rows[drawn].sum(axis=0)[:, None])
    again = [references[i] for i in drawn], [candidates[i] for i in drawn]
    assert figures["Bleu_4"].item() == pytest.approx(Bleu(again[0]).score(again[1])[3])
    assert figures["METEOR"].item() == pytest.approx(Meteor(again[0]).score(again[1])[0])


def test_a_thousand_resamples_of_five_thousand_images_take_under_two_seconds():
    rows = np.ones((5_000, 20))
    before = time.process_time()
    resample(rows)
    assert time.process_time() - before < 2
