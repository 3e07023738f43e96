"""Fitting the temperature and the threshold, and the expected calibration error."""

import math
import random
from statistics import fmean

import pytest

from captioner.metrics.calibration import (
    GeneratedWord,
    ScoredCaption,
    calibration_error,
    cross_fit,
    fit_temperature,
    fit_threshold,
    score_captions,
    sureness_rates,
)


def error_of(captions, temperature):
    return calibration_error(score_captions(captions, temperature))


def cross_fitted_error(captions):
    [scored] = cross_fit(captions)
    return calibration_error(scored)


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
    assert error_of(captions, 1.0) > 0.2
    assert error_of(captions, fit_temperature(captions)) < 0.03
    assert cross_fitted_error(captions) < 0.03


def test_the_error_is_the_distance_between_confidence_and_accuracy():
    # Two captions are in the bin from 0.5 to 0.6: mean confidence 0.55, accuracy 0.5. One is in the
    # bin from 0.9 to 1.0: confidence 0.95, accuracy 0.
    captions = [
        [GeneratedWord(math.log(0.52), True)],
        [GeneratedWord(math.log(0.58), False)],
        [GeneratedWord(math.log(0.95), False)],
    ]
    assert error_of(captions, 1.0) == pytest.approx((2 * abs(0.55 - 0.5) + 0.95) / 3)


def test_opposite_errors_of_different_bins_do_not_cancel():
    captions = [[GeneratedWord(math.log(0.15), True)], [GeneratedWord(math.log(0.85), False)]]
    assert error_of(captions, 1.0) == pytest.approx(0.85)


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
    assert cross_fit([]) == [[]]


def test_captions_without_words_are_left_out():
    captions = [[], [GeneratedWord(math.log(0.5), True)]]
    assert error_of(captions, 1.0) == pytest.approx(0.5)
    assert error_of([[]], 1.0) == 0


def test_an_incorrect_word_with_probability_one_has_a_finite_loss():
    assert math.isfinite(
        fit_temperature([[GeneratedWord(0.0, False), GeneratedWord(math.log(0.3), True)]])
    )


def test_each_data_set_has_the_same_weight_in_the_temperature():
    # Alone, the first data set has the temperature 2, and the second has 4.
    small, large = [half_correct(1 / 4)], [half_correct(1 / 16)]
    balanced = fit_temperature(small, large)
    assert fit_temperature(small, large * 50) == pytest.approx(balanced, rel=1e-3)
    assert balanced == pytest.approx(fit_temperature(small + large), rel=1e-3)
    assert balanced < 3.5
    assert fit_temperature(small + large * 50) == pytest.approx(4, rel=0.02)  # as one data set


def caption(confidence, *, correct):
    """A caption of four words of which this many are correct: 3 or more of 4 make it right."""
    return [GeneratedWord(math.log(confidence), number < correct) for number in range(4)]


WRONG, RIGHT = 2, 3


def test_a_caption_is_right_if_three_of_four_words_are_correct():
    scored = score_captions([caption(0.5, correct=number) for number in range(5)], 1.0)
    assert [each.right for each in scored] == [False, False, False, True, True]
    assert [each.accuracy for each in scored] == [0, 0.25, 0.5, 0.75, 1]


def test_the_threshold_maximises_youdens_index_half_way_between_two_confidences():
    # confidence   .2     .4     .5     .6     .8
    #              wrong  right  wrong  right  right
    # J if all up to here are unsure (2 wrong ones, 3 right ones):
    #              1/2    1/6    2/3    1/3    0
    captions = [
        caption(0.6, correct=RIGHT),
        caption(0.2, correct=WRONG),
        caption(0.8, correct=RIGHT),
        caption(0.5, correct=WRONG),
        caption(0.4, correct=RIGHT),
    ]
    assert fit_threshold(captions, temperature=1.0) == pytest.approx(0.55)
    squared = [[word._replace(log_prob=2 * word.log_prob) for word in each] for each in captions]
    assert fit_threshold(squared, temperature=2.0) == pytest.approx(0.55)


def test_the_threshold_does_not_depend_on_how_many_captions_are_right():
    captions = [caption(0.3, correct=WRONG), caption(0.5, correct=RIGHT)]
    mixed = [*captions, caption(0.4, correct=RIGHT), caption(0.45, correct=WRONG)]
    # Up to .3: 1/2 - 0. Up to .45: 1 - 1/2. The lower of two equal ones marks fewer captions.
    assert fit_threshold(mixed, temperature=1.0) == pytest.approx(0.35)
    more_right = [*mixed, *[caption(0.5, correct=RIGHT)] * 8]  # 1/2 and 1 - 1/10
    assert fit_threshold(more_right, temperature=1.0) == pytest.approx(0.475)


def test_each_data_set_has_the_same_weight_in_the_threshold():
    small = [
        caption(0.3, correct=WRONG),
        caption(0.35, correct=WRONG),
        caption(0.5, correct=RIGHT),
    ]
    large = [*[caption(0.6, correct=WRONG)] * 10, caption(0.7, correct=RIGHT)]
    # A caption weighs 1/3 in the small data set, and 1/11 in the large one. A threshold of .425
    # finds 2/3 of the 2/3 + 10/11 of wrong captions: J = .42. One of .65 finds all of them, and
    # 1/3 of the 1/3 + 1/11 of right ones: J = .21.
    assert fit_threshold(small, large, temperature=1.0) == pytest.approx(0.425)
    # With equal weights, J = 2/12 for the first, and 1 - 1/2 for the second.
    assert fit_threshold(small + large, temperature=1.0) == pytest.approx(0.65)


def test_captions_of_equal_confidence_are_on_one_side_of_the_threshold():
    # Between the two of .5 there is no threshold, although J would be 1 there.
    captions = [caption(0.5, correct=WRONG), caption(0.5, correct=RIGHT)]
    assert fit_threshold(captions, temperature=1.0) is None
    captions += [caption(0.2, correct=WRONG), caption(0.9, correct=RIGHT)]
    assert fit_threshold(captions, temperature=1.0) == pytest.approx(0.35)


@pytest.mark.parametrize(
    "captions",
    [
        [],
        [[]],
        [caption(0.2, correct=WRONG), caption(0.6, correct=WRONG)],
        [caption(0.2, correct=RIGHT), caption(0.6, correct=RIGHT)],
        [caption(0.2, correct=RIGHT), caption(0.6, correct=WRONG)],
    ],
)
def test_there_is_no_threshold_if_none_separates_right_from_wrong_captions(captions):
    assert fit_threshold(captions, temperature=1.0) is None


def test_a_caption_at_the_threshold_is_sure_and_without_one_every_caption_is():
    captions = [[GeneratedWord(0.0, True)], [GeneratedWord(math.log(0.9), True)], []]
    assert [each.sure for each in score_captions(captions, 1.0, 1.0)] == [True, False]
    assert [each.sure for each in score_captions(captions, 1.0)] == [True, True]


def test_cross_fitting_marks_each_half_by_the_calibration_of_the_other():
    # At even positions the captions have lower probabilities than at odd ones, and the same
    # accuracies. Each half alone is separated perfectly, but by the calibration of the other half
    # the captions at even positions are all unsure, and those at odd positions all sure.
    even = [caption(0.2, correct=WRONG), caption(0.4, correct=RIGHT)]
    odd = [caption(0.6, correct=WRONG), caption(0.8, correct=RIGHT)]
    [scored] = cross_fit([even[0], odd[0], even[1], odd[1]])
    assert [each.accuracy for each in scored] == [0.5, 0.75, 0.5, 0.75]
    assert [each.sure for each in scored] == [False, False, True, True]


def test_cross_fitting_uses_the_other_halves_of_all_data_sets():
    first = [half_correct(1 / 4), half_correct(1 / 16)]
    second = [half_correct(1 / 2), half_correct(1 / 8)]
    scored, _ = cross_fit(first, second)
    temperature = fit_temperature(first[:1], second[:1])
    assert scored[1].confidence == pytest.approx((1 / 16) ** (1 / temperature))


def test_the_rates_compare_sure_with_unsure_captions():
    rates = sureness_rates(
        [
            ScoredCaption(0.9, 1.0, sure=True),
            ScoredCaption(0.8, 0.5, sure=True),
            ScoredCaption(0.4, 0.75, sure=False),
            ScoredCaption(0.3, 0.25, sure=False),
            ScoredCaption(0.2, 0.2, sure=False),
        ]
    )
    assert rates == pytest.approx((3 / 5, 1 / 2, 1 / 3, 0.75, fmean([0.75, 0.25, 0.2])))
    alone = sureness_rates([ScoredCaption(0.9, 1.0, sure=True)])
    assert alone[:2] == (0, 1)
    assert math.isnan(alone.right_if_unsure)
