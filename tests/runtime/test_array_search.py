"""Search over arrays: languages computed by hand, and the captions of the search in torch."""

import math

import numpy as np
import pytest
import torch

from captioner.config.schema import DecodingConfig
from captioner.decoding import constraints
from captioner.decoding.beam import average_norm, no_norm, wu_norm
from captioner.decoding.beam import beam_search as torch_beam_search
from captioner.decoding.sampling import greedy as torch_greedy
from captioner.runtime import rules
from captioner.runtime.search import beam_search, length_norm

BOS, EOS, A, B, C = range(5)
LENGTH = 3


def language(table, size=5):
    """Return a step whose next token depends on the last one only."""
    log_probs = np.full((size, size), -np.inf, dtype=np.float32)
    for word, following in table.items():
        for other, probability in following.items():
            log_probs[word, other] = math.log(probability)

    def step(token_ids, state):
        return log_probs[token_ids], state

    return step


def search(step, images=1, *, own_rules=(), prefix=(), max_length=LENGTH, **settings):
    state = (np.arange(images)[:, None] * 7,)
    rule = rules.combine(own_rules, eos=EOS, prefix=prefix)
    options = {"num_beams": 1, "num_captions": 1, "norm": no_norm} | settings
    return beam_search(step, state, rule, bos=BOS, eos=EOS, max_length=max_length, **options)


MISLEADING = language(
    {BOS: {A: 0.6, B: 0.4}, A: {A: 0.4, C: 0.3, EOS: 0.3}, B: {C: 1.0}, C: {EOS: 1.0}}
)


def test_two_beams_find_the_better_caption_that_one_beam_misses():
    [[greedy]] = search(MISLEADING)
    [[best]] = search(MISLEADING, num_beams=2)
    assert greedy.token_ids == [A, A, A]
    assert greedy.log_prob == pytest.approx(math.log(0.6 * 0.4 * 0.4 * 0.3))
    assert best.token_ids == [B, C]
    assert best.log_probs == pytest.approx([math.log(0.4), 0, 0])


def test_captions_come_best_first_by_log_probability_over_the_length_norm():
    # <eos> .3, a .7 and then <eos>: without norm a wins; log .3 / 1 = -1.20, log .7 / 2 = -.18
    # b .36 and <eos>, or <eos> .4: log .4 / 1 = -.92 is below log .36 / 2 = -.51 per token
    step = language({BOS: {EOS: 0.4, A: 0.24, B: 0.36}, A: {EOS: 1.0}, B: {EOS: 1.0}})
    for norm, expected in ((no_norm, [[], [B], [A]]), (average_norm, [[B], [A], []])):
        [found] = search(step, num_beams=3, num_captions=3, norm=norm)
        assert [caption.token_ids for caption in found] == expected


def test_a_search_stops_when_no_beam_can_become_a_better_caption():
    steps = []
    step = language({BOS: {A: 0.1, EOS: 0.9}, A: {A: 0.9, EOS: 0.1}})

    def counting(token_ids, state):
        steps.append(len(token_ids))
        return step(token_ids, state)

    [[best]] = search(counting, num_beams=2)
    assert best.token_ids == []
    assert steps == [1]


def test_only_active_captions_are_stepped_and_their_slots_close():
    # Image by image the same: a ends at once, which closes one of two slots; b goes on.
    rows = []
    step = language({BOS: {A: 0.6, B: 0.4}, A: {EOS: 1.0}, B: {C: 1.0}, C: {EOS: 1.0}})

    def counting(token_ids, state):
        rows.append(len(token_ids))
        assert len(state[0]) == len(token_ids)
        return step(token_ids, state)

    found = search(counting, images=3, num_beams=2, num_captions=2)
    assert [[caption.token_ids for caption in each] for each in found] == [[[A], [B, C]]] * 3
    assert rows == [3, 6, 3]


def test_every_row_keeps_the_state_of_its_own_beam():
    # The state sums the tokens of a beam: it must be that of the tokens that were chosen.
    def step(token_ids, state):
        [total] = state
        total = total + token_ids[:, None]
        log_probs = np.full((len(token_ids), 40), -9.0, dtype=np.float32)
        log_probs[:, EOS] = -0.5
        log_probs[np.arange(len(token_ids)), total[:, 0] % 37 + 3] = -0.1
        return log_probs, (total,)

    for image, [best] in enumerate(search(step, images=3, num_beams=4, norm=average_norm)):
        total, expected = 7 * image + BOS, []
        for _ in range(LENGTH):
            expected.append(total % 37 + 3)
            total += expected[-1]
        assert best.token_ids == expected


def test_a_caption_without_an_allowed_token_ends_and_keeps_the_models_log_probability():
    step = language({BOS: {A: 1.0}, A: {A: 0.9, EOS: 0.1}})
    own_rules = [rules.forbid([BOS]), rules.min_length(9, eos=EOS), rules.no_double_words()]
    [[caption]] = search(step, own_rules=own_rules)
    assert caption.token_ids == [A]
    assert caption.log_probs == pytest.approx([0.0, math.log(0.1)])


def test_captions_start_with_the_prefix_to_which_no_rule_applies():
    step = language({BOS: {A: 0.9, B: 0.1}, B: {B: 0.2, C: 0.8}, C: {EOS: 1.0}})
    [[caption]] = search(step, own_rules=[rules.no_double_words()], prefix=[B, B])
    assert caption.token_ids == [B, B, C]
    assert caption.log_probs == pytest.approx([math.log(0.1), math.log(0.2), math.log(0.8), 0.0])


def test_the_length_norms_are_those_that_the_search_in_torch_uses():
    for name, expected in (
        ("none", no_norm),
        ("average", average_norm),
        ("wu", wu_norm(0.7)),
    ):
        norm = length_norm(DecodingConfig(length_norm=name, length_alpha=0.7))
        assert [norm(length) for length in range(1, 9)] == [expected(n) for n in range(1, 9)]


# The same captions as in torch, on random languages

VOCABULARY = 14


def random_table(seed, size=VOCABULARY, spread=2.0):
    table = spread * torch.randn(997, size, generator=torch.Generator().manual_seed(seed))
    table[:, EOS] += 1.0  # else most captions would be as long as allowed
    table[:, BOS] = -torch.inf
    return table.log_softmax(dim=1)


def torch_step(table):
    def step(words, state):
        history = (state[0] * 31 + words.unsqueeze(1) + 1) % 997
        return table[history.squeeze(1)], (history,)

    return step


def array_step(table):
    rows = table.numpy()

    def step(token_ids, state):
        history = (state[0] * 31 + token_ids[:, None] + 1) % 997
        return rows[history[:, 0]], (history,)

    return step


RULES = {
    "forbid": lambda module: module.forbid([5, 8]),
    "min_length": lambda module: module.min_length(4, eos=EOS),
    "no_double_words": lambda module: module.no_double_words([6]),
    "no_repeat_words": lambda module: module.no_repeat_words([6, 7]),
    "no_repeat_ngram": lambda module: module.no_repeat_ngram(2),
    "no_repeat_unigram": lambda module: module.no_repeat_ngram(1),
}


def both_searches(seed, *, images, beams, captions, norm, max_length=7, names=(), prefix=()):
    """Return the captions of the search in torch, and of the search over arrays."""
    table, start = random_table(seed), torch.arange(images).unsqueeze(1) * 7
    ours = [RULES[name](rules) for name in names]
    found = search(
        array_step(table),
        images,
        own_rules=ours,
        prefix=prefix,
        max_length=max_length,
        num_beams=beams,
        num_captions=captions,
        norm=norm,
    )
    step, state = constraints.apply_rules(
        torch_step(table),
        (start,),
        [RULES[name](constraints) for name in names],
        eos=EOS,
        limits=torch.full((images,), max_length),
        prefix=prefix,
    )
    ends = {"bos": BOS, "eos": EOS, "max_length": max_length}
    if beams == 1:
        return [[each] for each in torch_greedy(step, state, **ends)], found
    return (
        torch_beam_search(
            step, state, num_beams=beams, num_captions=captions, length_norm=norm, **ends
        ),
        found,
    )


@pytest.mark.parametrize("norm", [no_norm, average_norm, wu_norm(1.1)], ids=["none", "avg", "wu"])
@pytest.mark.parametrize(
    ("beams", "captions"), [(1, 1), (2, 1), (3, 3), (4, 2), (5, 1), (VOCABULARY + 3, 6)]
)
def test_captions_and_log_probabilities_equal_those_of_the_search_in_torch(beams, captions, norm):
    for seed in range(12):
        for images in (1, 5):
            expected, found = both_searches(
                seed, images=images, beams=beams, captions=captions, norm=norm
            )
            assert found == expected


@pytest.mark.parametrize("prefix", [(), (6,), (6, 6, 9)])
@pytest.mark.parametrize("names", [*([name] for name in RULES), [*RULES]], ids="-".join)
def test_rules_and_prefixes_have_the_same_effect_as_in_torch(names, prefix):
    for seed in range(6):
        for beams, captions in ((1, 1), (4, 2)):
            expected, found = both_searches(
                seed,
                images=4,
                beams=beams,
                captions=captions,
                norm=wu_norm(0.9),
                names=names,
                prefix=prefix,
            )
            assert found == expected


def test_an_image_gets_the_same_captions_alone_as_in_a_batch():
    step = array_step(random_table(3))
    batch = search(step, 6, num_beams=3, num_captions=2, max_length=7)
    for image in range(6):
        rule = rules.combine([], eos=EOS)
        [alone] = beam_search(
            step,
            (np.array([[7 * image]]),),
            rule,
            bos=BOS,
            eos=EOS,
            max_length=7,
            num_beams=3,
            num_captions=2,
            norm=no_norm,
        )
        assert alone == batch[image]
