"""Sampling: the frequency of each word, temperature, top-k and top-p, and reproducible captions."""

import pytest
import torch
from languages import BOS, EOS, A, B, C, language, own_score, random_step, start

from captioner.decoding.constraints import apply_rules, forbid
from captioner.decoding.sampling import greedy, sample

ONE_WORD = language({BOS: {A: 0.6, B: 0.3, C: 0.1}, A: {EOS: 1.0}, B: {EOS: 1.0}, C: {EOS: 1.0}})


def random_uniforms(rows, length=1, seed=0):
    return torch.rand(rows, length, generator=torch.Generator().manual_seed(seed))


def shares(rows=20_000, **settings):
    """Return the relative frequency of each of the three words among samples."""
    state = (torch.zeros(rows, 1),)
    words = [
        caption.token_ids[0]
        for caption in sample(
            ONE_WORD, state, bos=BOS, eos=EOS, uniforms=random_uniforms(rows), **settings
        )
    ]
    return [words.count(word) / rows for word in (A, B, C)]


def test_words_are_sampled_as_often_as_they_are_probable():
    assert shares() == pytest.approx([0.6, 0.3, 0.1], abs=0.015)


def test_a_temperature_sharpens_or_flattens_the_distribution():
    powers = torch.tensor([0.6, 0.3, 0.1]) ** 2  # temperature 1/2
    assert shares(temperature=0.5) == pytest.approx((powers / powers.sum()).tolist(), abs=0.015)
    assert shares(temperature=100.0) == pytest.approx([1 / 3] * 3, abs=0.015)


def test_top_k_keeps_the_likeliest_words():
    assert shares(top_k=2) == pytest.approx([2 / 3, 1 / 3, 0], abs=0.015)
    assert shares(top_k=99) == shares()


def test_top_p_keeps_the_fewest_words_whose_probabilities_reach_it():
    assert shares(top_p=0.5) == [1, 0, 0]  # .6 is enough
    assert shares(top_p=0.7) == pytest.approx([2 / 3, 1 / 3, 0], abs=0.015)
    assert shares(top_p=0.95) == pytest.approx([0.6, 0.3, 0.1], abs=0.015)


@pytest.mark.parametrize("top_p", [1e-320, 1e-50])  # both are 0 as 32-bit numbers
def test_the_likeliest_word_stays_however_small_top_p_is(top_p):
    assert shares(top_p=top_p) == [1, 0, 0]
    assert shares(top_p=top_p, top_k=2) == [1, 0, 0]


def test_top_k_of_1_is_greedy_search():
    step = random_step(3)
    sampled = sample(step, start(6), bos=BOS, eos=EOS, uniforms=random_uniforms(6, 5), top_k=1)
    assert sampled == greedy(step, start(6), bos=BOS, eos=EOS, max_length=5)


def test_equal_random_numbers_give_equal_captions_whatever_the_other_rows():
    step, numbers = random_step(3), random_uniforms(6, 5)
    batch = sample(step, start(6), bos=BOS, eos=EOS, uniforms=numbers)
    for row in range(6):
        [alone] = sample(
            step, (start(6)[0][row : row + 1],), bos=BOS, eos=EOS, uniforms=numbers[row : row + 1]
        )
        assert alone == batch[row]


def test_log_probabilities_are_the_languages_own_whatever_temperature_top_k_and_top_p():
    step = random_step(8)
    found = sample(
        step,
        start(6),
        bos=BOS,
        eos=EOS,
        uniforms=random_uniforms(6, 5),
        temperature=3.0,
        top_k=2,
        top_p=0.9,
    )
    for image, caption in enumerate(found):
        assert caption.log_prob == pytest.approx(
            own_score(step, image, caption.token_ids), abs=1e-4
        )


@pytest.mark.parametrize("number", [0.0, 1 - 2**-24])
def test_a_word_of_probability_zero_is_never_sampled_even_at_the_edges(number):
    step, state = apply_rules(
        ONE_WORD, (torch.zeros(1, 1),), [forbid([A, C])], eos=EOS, limits=torch.tensor([3])
    )
    [caption] = sample(step, state, bos=BOS, eos=EOS, uniforms=torch.full((1, 3), number))
    assert caption.token_ids == [B]
