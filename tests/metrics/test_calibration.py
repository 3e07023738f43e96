"""Fitting the temperature, and the expected calibration error."""

import math
import random

import pytest

from captioner.metrics.calibration import (
    GeneratedWord,
    calibration_error,
    confidence,
    cross_fitted_error,
    fit_temperature,
)


def calibrated_by(temperature, captions=3000, seed=0):
    """Return captions whose words are correct with probability p ** (1 / temperature)."""
    rng = random.Random(seed)
    result = []
    for _ in range(captions):
        log_probs = [math.log(rng.uniform(0.01, 1)) for _ in range(8)]
        result.append(
            [
                GeneratedWord(log_prob, rng.random() < math.exp(log_prob / temperature))
                for log_prob in log_probs
            ]
        )
    return result


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_the_temperature_that_the_words_were_drawn_with_is_found(temperature):
    assert fit_temperature(calibrated_by(temperature)) == pytest.approx(temperature, rel=0.05)


def test_a_fitted_temperature_calibrates_the_confidences():
    captions = calibrated_by(3.0)
    assert calibration_error(captions, 1.0) > 0.2
    assert calibration_error(captions, fit_temperature(captions)) < 0.03
    assert cross_fitted_error(captions) < 0.03


def test_a_temperature_of_one_leaves_probabilities_as_they_are_and_a_higher_one_raises_them():
    assert confidence(math.log(0.25), 1.0) == pytest.approx(0.25)
    assert confidence(math.log(0.25), 2.0) == pytest.approx(0.5)


def test_the_error_is_the_distance_between_confidence_and_accuracy():
    # Two captions are in the bin from 0.5 to 0.6: mean confidence 0.55, accuracy 0.5. One is in the
    # bin from 0.9 to 1.0: confidence 0.95, accuracy 0.
    captions = [
        [GeneratedWord(math.log(0.52), True)],
        [GeneratedWord(math.log(0.58), False)],
        [GeneratedWord(math.log(0.95), False)],
    ]
    assert calibration_error(captions, 1.0) == pytest.approx((2 * abs(0.55 - 0.5) + 0.95) / 3)


def test_opposite_errors_of_different_bins_do_not_cancel():
    captions = [[GeneratedWord(math.log(0.15), True)], [GeneratedWord(math.log(0.85), False)]]
    assert calibration_error(captions, 1.0) == pytest.approx(0.85)


def test_captions_without_words_are_left_out():
    captions = [[], [GeneratedWord(math.log(0.5), True)]]
    assert calibration_error(captions, 1.0) == pytest.approx(0.5)
    assert calibration_error([[]], 1.0) == 0


def test_an_incorrect_word_with_probability_one_has_a_finite_loss():
    assert math.isfinite(
        fit_temperature([[GeneratedWord(0.0, False), GeneratedWord(math.log(0.3), True)]])
    )
