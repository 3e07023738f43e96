"""How far a confidence can be believed."""

import math
import random

import pytest

from captioner.metrics.calibration import (
    Said,
    calibration_error,
    confidence,
    fit_temperature,
    unseen_error,
)


def speaker(temperature, captions=3000, seed=0):
    """Captions whose words are right exactly as often as their probability ** (1 / temperature) says."""
    rng = random.Random(seed)
    said = []
    for _ in range(captions):
        log_probs = [math.log(rng.uniform(0.01, 1)) for _ in range(8)]
        said.append(
            [
                Said(log_prob, rng.random() < math.exp(log_prob / temperature))
                for log_prob in log_probs
            ]
        )
    return said


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_the_temperature_that_the_words_were_drawn_with_is_found(temperature):
    assert fit_temperature(speaker(temperature)) == pytest.approx(temperature, rel=0.05)


def test_a_fitted_temperature_makes_confidences_believable():
    captions = speaker(3.0)
    assert calibration_error(captions, 1.0) > 0.2
    assert calibration_error(captions, fit_temperature(captions)) < 0.03
    assert unseen_error(captions) < 0.03


def test_a_temperature_of_one_leaves_probabilities_as_they_are_and_a_higher_one_raises_them():
    assert confidence(math.log(0.25), 1.0) == pytest.approx(0.25)
    assert confidence(math.log(0.25), 2.0) == pytest.approx(0.5)


def test_the_error_is_the_distance_between_confidence_and_the_share_of_right_words():
    # Two captions in the bin from .5 to .6: mean confidence .55, right .5 of the time; one in the bin .9: .95, never.
    captions = [
        [Said(math.log(0.52), True)],
        [Said(math.log(0.58), False)],
        [Said(math.log(0.95), False)],
    ]
    assert calibration_error(captions, 1.0) == pytest.approx((2 * abs(0.55 - 0.5) + 0.95) / 3)


def test_opposite_errors_of_different_bins_do_not_cancel():
    captions = [[Said(math.log(0.15), True)], [Said(math.log(0.85), False)]]
    assert calibration_error(captions, 1.0) == pytest.approx(0.85)


def test_captions_without_words_say_nothing():
    captions = [[], [Said(math.log(0.5), True)]]
    assert calibration_error(captions, 1.0) == pytest.approx(0.5)
    assert calibration_error([[]], 1.0) == 0


def test_a_certain_word_that_is_wrong_is_no_accident():
    assert math.isfinite(fit_temperature([[Said(0.0, False), Said(math.log(0.3), True)]]))
