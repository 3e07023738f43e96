"""Fitting the temperature, and the expected calibration error."""

import math
import random

import pytest

from captioner.metrics.calibration import (
    GeneratedWord,
    calibration_error,
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


def half_correct(probability):
    """A caption of two words with this probability, one of them correct."""
    log_prob = math.log(probability)
    return [GeneratedWord(log_prob, True), GeneratedWord(log_prob, False)]


def test_the_best_temperature_of_words_of_one_probability_makes_their_confidence_their_accuracy():
    # (1/4) ** (1/2) = (1/16) ** (1/4) = 1/2
    assert fit_temperature([half_correct(1 / 4)]) == pytest.approx(2, rel=1e-3)
    assert fit_temperature([half_correct(1 / 16)]) == pytest.approx(4, rel=1e-3)


def test_cross_fitting_judges_each_half_by_the_temperature_of_the_other():
    # The halves are the captions at even and at odd positions. Alone, the first half (two captions)
    # has the temperature 2, and the second (one caption) has 4. With that of the other half, the
    # confidences are (1/4) ** (1/4) and (1/16) ** (1/2) = 1/4; all accuracies are 1/2.
    captions = [half_correct(1 / 4), half_correct(1 / 16), half_correct(1 / 4)]
    first, second = abs(0.25**0.25 - 1 / 2), abs(1 / 4 - 1 / 2)
    assert cross_fitted_error(captions) == pytest.approx((2 * first + second) / 3, rel=1e-3)


def test_cross_fitting_shows_that_a_temperature_fits_no_other_captions():
    # Both halves are calibrated by their own temperature: the error is that of the exchange only.
    captions = [half_correct(1 / 4), half_correct(1 / 16)]
    assert cross_fitted_error(captions[:1] * 2) == pytest.approx(0, abs=1e-3)
    assert cross_fitted_error(captions) > 0.2
    assert cross_fitted_error([]) == 0


def test_captions_without_words_are_left_out():
    captions = [[], [GeneratedWord(math.log(0.5), True)]]
    assert calibration_error(captions, 1.0) == pytest.approx(0.5)
    assert calibration_error([[]], 1.0) == 0


def test_an_incorrect_word_with_probability_one_has_a_finite_loss():
    assert math.isfinite(
        fit_temperature([[GeneratedWord(0.0, False), GeneratedWord(math.log(0.3), True)]])
    )
