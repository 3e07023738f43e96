"""Rules have the same effect in greedy search, sampling and beam search, on random languages."""

import itertools
import random

import pytest
import torch
from languages import BOS, EOS, A, B, C, language, own_score, random_step, start

from captioner.decoding.beam import beam_search
from captioner.decoding.constraints import (
    apply_rules,
    forbid,
    min_length,
    no_double_words,
    no_repeat_ngram,
    no_repeat_words,
    require,
)
from captioner.decoding.sampling import greedy, sample

VOCABULARY, LENGTH = 12, 8
WORDS = range(EOS + 1, VOCABULARY)
SEARCHES = ["greedy", "sample", "beam", "diverse"]


def constrain(step, state, rules, prefix=(), length=LENGTH):
    """Apply the rules, with the same limit for each row of the state."""
    limits = torch.full((len(state[0]),), length)
    return apply_rules(step, state, rules, eos=EOS, limits=limits, prefix=prefix)


def captions(search, step, state, required=()):
    """Return all captions that a search finds, image by image."""
    ends = {"bos": BOS, "eos": EOS}
    if search == "greedy":
        return [[found] for found in greedy(step, state, max_length=LENGTH, **ends)]
    if search == "sample":
        uniforms = torch.rand(len(state[0]), LENGTH, generator=torch.Generator().manual_seed(1))
        return [[found] for found in sample(step, state, uniforms=uniforms, **ends)]
    groups = {"num_groups": 2, "diversity": 0.5} if search == "diverse" else {}
    return beam_search(
        step, state, max_length=LENGTH, num_beams=4, required=required, **groups, **ends
    )


def texts(search, seed, rules, prefix=(), required=()):
    step = random_step(seed, VOCABULARY, spread=2.0)
    step, state = constrain(step, start(4), rules, prefix=prefix)
    return [
        caption.token_ids for found in captions(search, step, state, required) for caption in found
    ]


@pytest.mark.parametrize("search", SEARCHES)
@pytest.mark.parametrize("seed", range(10))
class TestRules:
    def test_forbidden_words_are_never_generated(self, search, seed):
        assert not any({3, 5} & set(words) for words in texts(search, seed, [forbid([3, 5])]))

    def test_captions_have_the_minimum_length(self, search, seed):
        lengths = [len(words) for words in texts(search, seed, [min_length(6, eos=EOS)])]
        assert all(6 <= length <= LENGTH for length in lengths)

    def test_no_word_occurs_twice_in_a_row(self, search, seed):
        for words in texts(search, seed, [no_double_words()]):
            assert all(one != other for one, other in itertools.pairwise(words))

    def test_no_word_occurs_twice_unless_it_is_exempt(self, search, seed):
        found = texts(search, seed, [min_length(6, eos=EOS), no_repeat_words([3, 5])])
        repeated = {word for words in found for word in words if words.count(word) > 1}
        assert repeated <= {3, 5}

    @pytest.mark.parametrize("n", [1, 2, 3])
    def test_no_ngram_occurs_twice(self, search, seed, n):
        for words in texts(search, seed, [min_length(6, eos=EOS), no_repeat_ngram(n)]):
            ngrams = [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]
            assert len(ngrams) == len(set(ngrams))

    def test_captions_start_with_the_prefix_whatever_other_rules_forbid(self, search, seed):
        for words in texts(search, seed, [forbid([4]), no_double_words()], prefix=[4, 4, 7]):
            assert words[:3] == [4, 4, 7]
            assert 4 not in words[3:]

    def test_log_probabilities_are_the_languages_own(self, search, seed):
        step = random_step(seed, VOCABULARY, spread=2.0)
        rules = [forbid([3]), no_double_words(), require([5, 6], eos=EOS)]
        constrained, state = constrain(step, start(4), rules, prefix=[7])
        for image, found in enumerate(captions(search, constrained, state, required=[5, 6])):
            for caption in found:
                assert caption.log_prob == pytest.approx(
                    own_score(step, image, caption.token_ids), abs=1e-4
                )


@pytest.mark.parametrize("length", [0, 1, 2, 5])
def test_a_caption_that_would_end_too_early_ends_at_the_minimum_length(length):
    eager = language({BOS: {A: 0.1, EOS: 0.9}, A: {A: 0.1, EOS: 0.9}})
    rules = [min_length(length, eos=EOS)]
    step, state = constrain(eager, (torch.zeros(1, 1),), rules)
    [caption] = greedy(step, state, bos=BOS, eos=EOS, max_length=LENGTH)
    assert caption.token_ids == [A] * length


def test_in_a_thousand_random_trials_required_words_appear_and_forbidden_ones_never():
    for trial in range(1000):
        rng = random.Random(trial)
        required = rng.sample(WORDS, rng.randint(1, 4))
        others = [word for word in WORDS if word not in required]
        forbidden = rng.sample(others, rng.randint(0, 4))
        prefix = rng.sample([word for word in others if word not in forbidden], rng.randint(0, 2))
        rules = [
            forbid(forbidden),
            min_length(rng.randint(0, LENGTH), eos=EOS),
            require(required, eos=EOS),
            no_repeat_ngram(rng.randint(1, 3)),
            no_double_words(),
        ]
        for words in texts(
            SEARCHES[trial % len(SEARCHES)], trial, rules, prefix=prefix, required=required
        ):
            assert set(required) <= set(words)
            assert not set(forbidden) & set(words)
            assert words[: len(prefix)] == prefix
            assert len(words) <= LENGTH


def test_a_caption_ends_if_the_rules_leave_no_token():
    rules = [forbid([*WORDS]), min_length(3, eos=EOS)]
    for search in SEARCHES:
        assert not any(texts(search, 0, rules))


def test_every_row_has_its_own_limit_of_tokens():
    endless = language({word: {A: 0.99, EOS: 0.01} for word in (BOS, A)})
    limits = torch.tensor([0, 3, 2])
    step, state = apply_rules(endless, (torch.zeros(3, 1),), [], eos=EOS, limits=limits)
    found = greedy(step, state, bos=BOS, eos=EOS, max_length=5)
    assert [caption.token_ids for caption in found] == [[], [A, A, A], [A, A]]
    found = beam_search(step, state, bos=BOS, eos=EOS, max_length=5, num_beams=2)
    for captions, limit in zip(found, limits.tolist(), strict=True):
        assert captions  # every row ends
        assert max(len(caption.token_ids) for caption in captions) == limit


def test_required_words_come_before_the_limit_of_their_own_row():
    free = language({word: {A: 0.9, B: 0.05, EOS: 0.05} for word in (BOS, A, B)})
    limits = torch.tensor([1, 4])
    rules = [require([B], eos=EOS)]
    step, state = apply_rules(free, (torch.zeros(2, 1),), rules, eos=EOS, limits=limits)
    found = greedy(step, state, bos=BOS, eos=EOS, max_length=4)
    assert [caption.token_ids for caption in found] == [[B], [A, A, A, B]]
    ends = {"bos": BOS, "eos": EOS, "max_length": 4}
    for required in ([], [B]):
        found = beam_search(step, state, num_beams=4, required=required, **ends)
        for captions, limit in zip(found, limits.tolist(), strict=True):
            assert captions
            assert all(B in caption.token_ids for caption in captions)
            assert all(len(caption.token_ids) <= limit for caption in captions)


def best_score(seed, required, allocate):
    """Return the mean score of the best captions, with and without dynamic beam allocation."""
    rules = [require(required, eos=EOS)]
    step, state = constrain(random_step(seed, 60, spread=2.0), start(10), rules)
    ends = {"bos": BOS, "eos": EOS, "max_length": LENGTH}
    found = beam_search(step, state, num_beams=6, required=required if allocate else (), **ends)
    return sum(captions[0].log_prob / (len(captions[0].token_ids) + 1) for captions in found) / len(
        found
    )


def test_dynamic_beam_allocation_finds_better_positions_for_required_words_than_the_end():
    better = [
        best_score(seed, [20, 30], allocate=True) > best_score(seed, [20, 30], allocate=False)
        for seed in range(20)
    ]
    assert sum(better) >= 18


def test_of_an_odd_number_of_slots_the_last_goes_to_a_beam_that_holds_the_required_word():
    # Three slots, and c is required. Two words with c: c a .1 * .7 = .07, a c .6 * .1 = .06,
    # b c .03, ... Without: a a .30, a b .24, ... The best with c and the best without c come
    # first, then the second best with c, although a b is likelier.
    probabilities = {
        BOS: {A: 0.6, B: 0.3, C: 0.1},
        A: {A: 0.5, B: 0.4, C: 0.1},
        B: {A: 0.5, B: 0.4, C: 0.1},
        C: {A: 0.7, B: 0.2, C: 0.1},
    }
    beams = []

    def recording(words, state):
        total, history = state
        history = torch.cat([history, words.unsqueeze(1)], dim=1)
        beams.append(sorted(history[:, 1:].tolist()))  # without <bos>
        log_probs, (total,) = language(probabilities)(words, (total,))
        return log_probs, (total, history)

    state = (torch.zeros(1, 1), torch.empty((1, 0), dtype=torch.int64))
    beam_search(recording, state, bos=BOS, eos=EOS, max_length=2, num_beams=3, required=[C])
    assert beams == [[[]], [[A], [B], [C]], [[A, A], [A, C], [C, A]]]


def test_required_words_are_found_where_an_exhaustive_search_finds_them():
    step = random_step(6)
    rules = [require([3, 4], eos=EOS)]
    constrained, state = constrain(step, start(5), rules, length=3)
    found = beam_search(
        constrained, state, bos=BOS, eos=EOS, max_length=3, num_beams=40, required=[3, 4]
    )
    for image, captions in enumerate(found):
        possible = [
            (3, 4),
            (4, 3),
            *((a, b, c) for a in (2, 3, 4) for b in (2, 3, 4) for c in (2, 3, 4)),
        ]
        possible = [words for words in possible if {3, 4} <= set(words)]
        expected = max(possible, key=lambda words: own_score(step, image, words) / (len(words) + 1))
        assert captions[0].token_ids == list(expected)
        assert len(captions) == len(possible)
