"""Greedy search and beam search, on languages small enough to compute captions by hand."""

import itertools
import math

import pytest
import torch
from languages import BOS, EOS, A, B, C, language, own_score, random_step, start

from captioner.decoding.beam import average_norm, beam_search, no_norm, wu_norm
from captioner.decoding.sampling import greedy
from captioner.types import select_state

WORDS = {"bos": BOS, "eos": EOS, "max_length": 3}
MISLEADING = language(
    {BOS: {A: 0.6, B: 0.4}, A: {A: 0.4, C: 0.3, EOS: 0.3}, B: {C: 1.0}, C: {EOS: 1.0}}
)


def state_of(images):
    return (torch.zeros(images, 1),)


def texts(found):
    return [[caption.token_ids for caption in captions] for captions in found]


def test_beam_search_finds_the_better_caption_that_greedy_search_misses():
    [found] = greedy(MISLEADING, state_of(1), **WORDS)
    [[best, *_]] = beam_search(MISLEADING, state_of(1), num_beams=2, **WORDS)
    assert found.token_ids == [A, A, A]
    assert found.log_prob == pytest.approx(math.log(0.6 * 0.4 * 0.4 * 0.3))
    assert best.token_ids == [B, C]
    assert best.log_probs == pytest.approx([math.log(0.4), 0, 0])
    assert best.log_prob == pytest.approx(math.log(0.4))


@pytest.mark.parametrize("seed", range(20))
def test_one_beam_is_greedy_search(seed):
    step = random_step(seed)
    narrow = beam_search(step, start(4), num_beams=1, **WORDS)
    for [from_beam], from_greedy in zip(narrow, greedy(step, start(4), **WORDS), strict=True):
        assert from_beam.token_ids == from_greedy.token_ids
        assert from_beam.log_probs == pytest.approx(from_greedy.log_probs)


@pytest.mark.parametrize("length_norm", [no_norm, average_norm, wu_norm(0.9)])
@pytest.mark.parametrize("seed", range(10))
def test_a_wide_beam_is_exhaustive_search(seed, length_norm):
    step = random_step(seed)
    possible = [
        words for length in range(4) for words in itertools.product([A, B, C], repeat=length)
    ]
    found = beam_search(step, start(2), num_beams=len(possible), length_norm=length_norm, **WORDS)
    for image, captions in enumerate(found):
        ranked = sorted(
            possible,
            key=lambda words: -own_score(step, image, words) / length_norm(len(words) + 1),
        )
        assert [caption.token_ids for caption in captions] == [list(words) for words in ranked]


@pytest.mark.parametrize("groups", [1, 5])
@pytest.mark.parametrize("beam", [1, 2, 3, 5])
def test_every_score_is_the_languages_own_score_of_that_caption(beam, groups):
    step = random_step(3)
    found = beam_search(
        step, start(6), num_beams=beam * groups, num_groups=groups, diversity=0.7, **WORDS
    )
    for image, captions in enumerate(found):
        assert len(captions) == beam or groups > 1
        for caption in captions:
            assert caption.log_prob == pytest.approx(
                own_score(step, image, caption.token_ids), abs=1e-4
            )
            assert len(caption.log_probs) == len(caption.token_ids) + 1


@pytest.mark.parametrize("length_norm", [no_norm, average_norm, wu_norm(0.5)])
def test_captions_come_best_first_by_log_probability_over_the_length_norm(length_norm):
    for captions in beam_search(
        random_step(5), start(6), num_beams=4, length_norm=length_norm, **WORDS
    ):
        ranks = [caption.log_prob / length_norm(len(caption.token_ids) + 1) for caption in captions]
        assert ranks == sorted(ranks, reverse=True)


def test_the_normalisations_are_those_of_the_papers():
    assert [no_norm(1), no_norm(9)] == [1, 1]
    assert average_norm(9) == 9
    assert wu_norm(0.6)(7) == pytest.approx(2**0.6)  # Wu et al. 2016, equation 14
    assert wu_norm(0)(7) == no_norm(7)


def test_no_normalisation_never_prefers_the_longer_caption():
    step = random_step(11)
    short, long = (
        beam_search(step, start(8), num_beams=5, length_norm=length_norm, **WORDS)
        for length_norm in (no_norm, average_norm)
    )
    pairs = [
        (len(one[0].token_ids), len(other[0].token_ids))
        for one, other in zip(short, long, strict=True)
    ]
    assert all(one <= other for one, other in pairs)
    assert any(one < other for one, other in pairs)


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("length_norm", [no_norm, average_norm, wu_norm(0.7)])
@pytest.mark.parametrize("captions", [1, 2, 4])
def test_stopping_early_changes_no_result(captions, length_norm, groups):
    settings = {
        "bos": BOS,
        "eos": EOS,
        "max_length": 8,
        "num_beams": 6,
        "num_groups": groups,
        "length_norm": length_norm,
    }
    for seed in range(15):
        step = random_step(seed, spread=1.5)
        all_captions = beam_search(step, start(3), **settings)
        assert beam_search(step, start(3), num_captions=captions, **settings) == [
            found[:captions] for found in all_captions
        ]


def test_a_search_stops_when_no_beam_can_become_a_better_caption():
    steps = []

    def counting(words, state):
        steps.append(len(words))
        return language({BOS: {A: 0.1, EOS: 0.9}, A: {A: 0.9, EOS: 0.1}})(words, state)

    [[best]] = beam_search(
        counting, state_of(1), num_beams=2, num_captions=1, length_norm=no_norm, **WORDS
    )
    assert best.token_ids == []
    assert len(steps) == 1


@pytest.mark.parametrize("groups", [1, 3])
def test_an_image_gets_the_same_captions_alone_as_in_a_batch(groups):
    settings = {**WORDS, "num_beams": 3, "num_groups": groups, "diversity": 0.7}
    step = random_step(7)
    batch = beam_search(step, start(5), **settings)
    for image in range(5):
        alone = beam_search(step, select_state(start(5), torch.tensor([image])), **settings)
        assert texts(alone) == texts(batch[image : image + 1])


def test_no_caption_is_longer_than_allowed():
    endless = language({BOS: {A: 1.0}, A: {A: 0.9, EOS: 0.1}})
    [[caption, *_]] = beam_search(endless, state_of(1), num_beams=1, **WORDS)
    assert caption.token_ids == greedy(endless, state_of(1), **WORDS)[0].token_ids == [A, A, A]


@pytest.mark.parametrize("search", ["greedy", "beam"])
def test_only_active_captions_are_stepped(search):
    rows = []
    step = random_step(1)

    def counting(words, state):
        rows.append(len(words))
        return step(words, state)

    if search == "beam":
        beam_search(counting, start(4), num_beams=3, **WORDS)
    else:
        greedy(counting, start(4), **WORDS)
    assert rows[0] == 4  # one row for each image before the first word
    assert all(count <= 12 for count in rows)
    assert rows[-1] < max(rows)


def test_groups_without_diversity_find_the_captions_of_one_group():
    step = random_step(2)
    one = beam_search(step, start(4), num_beams=2, **WORDS)
    three = beam_search(step, start(4), num_beams=6, num_groups=3, diversity=0.0, **WORDS)
    assert texts(one) == texts(three)


def test_a_group_avoids_the_words_that_earlier_groups_chose():
    # a .5, b .3, c .2. For the second group a is .5 e^-1 = .18: it chooses b.
    # For the third group b is .3 e^-1 = .11 too: it chooses c.
    step = language({BOS: {A: 0.5, B: 0.3, C: 0.2}, A: {EOS: 1.0}, B: {EOS: 1.0}, C: {EOS: 1.0}})
    [found] = beam_search(step, state_of(1), num_beams=3, num_groups=3, diversity=1.0, **WORDS)
    assert [caption.token_ids for caption in found] == [[A], [B], [C]]
    assert [caption.log_prob for caption in found] == pytest.approx(
        [math.log(0.5), math.log(0.3), math.log(0.2)]
    )


def test_a_word_that_two_earlier_groups_chose_is_penalised_twice():
    # a .9, b .1. For the second group a is .9 e^-1.5 = .20: it chooses a too.
    # For the third group a is .9 e^-3 = .04: it chooses b. After one penalty it would choose a.
    step = language({BOS: {A: 0.9, B: 0.1}, A: {EOS: 1.0}, B: {EOS: 1.0}})
    [found] = beam_search(step, state_of(1), num_beams=3, num_groups=3, diversity=1.5, **WORDS)
    assert [caption.token_ids for caption in found] == [[A], [B]]


def test_a_word_that_two_beams_of_an_earlier_group_chose_is_penalised_twice():
    # Two groups of two beams. Each group starts with a and with b, because there is nothing else.
    # Then the first group continues both with c: .6 * .9 = .54 and .4 * .9 = .36 are more than
    # .06 and .04 for the end. The second group has .54 e^-3 = .027 and .36 e^-3 = .018 for c: it
    # ends both. After one penalty, .36 e^-1.5 = .08 would be more than .06: it would choose c.
    step = language(
        {
            BOS: {A: 0.6, B: 0.4},
            A: {C: 0.9, EOS: 0.1},
            B: {C: 0.9, EOS: 0.1},
            C: {EOS: 1.0},
        }
    )
    [found] = beam_search(step, state_of(1), num_beams=4, num_groups=2, diversity=1.5, **WORDS)
    assert sorted(caption.token_ids for caption in found) == [[A], [A, C], [B], [B, C]]


def test_a_penalty_lasts_for_one_step_only():
    # The second group avoids a at the first step, after the first group chose it, and chooses b.
    # At the second step the first group ends, so the second group may choose a: .6 is more than .4.
    step = language({BOS: {A: 0.6, B: 0.4}, A: {EOS: 1.0}, B: {A: 0.6, EOS: 0.4}})
    [found] = beam_search(step, state_of(1), num_beams=2, num_groups=2, diversity=1.0, **WORDS)
    assert sorted(caption.token_ids for caption in found) == [[A], [B, A]]


def test_diversity_gives_more_different_captions():
    step = random_step(4, vocabulary=30, spread=2.0)
    settings = {"bos": BOS, "eos": EOS, "max_length": 8, "num_beams": 6}
    plain, diverse = (
        beam_search(step, start(20), num_groups=6, diversity=strength, **settings)
        for strength in (0.0, 2.0)
    )

    def distinct(found):
        return sum(len({tuple(words) for words in captions}) for captions in texts(found))

    assert distinct(plain) == 20
    assert distinct(diverse) > 80


@pytest.mark.parametrize("groups", [1, 2, 6])
def test_no_caption_is_found_twice(groups):
    step = random_step(4, vocabulary=8, spread=3.0)
    for captions in texts(
        beam_search(step, start(30), num_beams=6, num_groups=groups, diversity=0.3, **WORDS)
    ):
        assert len({tuple(words) for words in captions}) == len(captions)
