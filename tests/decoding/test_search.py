"""Greedy and beam search over languages small enough to be computed by hand."""

import itertools
import math

import pytest
import torch

from captioner.decoding.beam import beam_search
from captioner.decoding.constraints import forbid
from captioner.decoding.greedy import greedy

BOS, EOS, A, B, C = range(5)
WORDS = {"bos": BOS, "eos": EOS, "max_length": 3}


def language(table):
    """A step that knows only the last word; its state counts the words said, to show that rows stay together."""
    probabilities = torch.zeros(5, 5)
    for word, following in table.items():
        for other, probability in following.items():
            probabilities[word, other] = probability

    def step(words, state):
        return probabilities[words].log(), (state[0] + words.unsqueeze(1),)

    return step


TEMPTING = language({BOS: {A: 0.6, B: 0.4}, A: {A: 0.4, C: 0.3, EOS: 0.3}, B: {C: 1.0}, C: {EOS: 1.0}})


def state_of(images):
    return (torch.zeros(images, 1),)


def test_greedy_takes_the_tempting_road_and_beam_the_better_one():
    [tempted] = greedy(TEMPTING, state_of(1), **WORDS)
    [[best, *_]] = beam_search(TEMPTING, state_of(1), beam=2, **WORDS)
    assert tempted.words == [A, A, A]
    assert tempted.log_prob == pytest.approx(math.log(0.6 * 0.4 * 0.4 * 0.3))
    assert best.words == [B, C]
    assert best.log_prob == pytest.approx(math.log(0.4))


def random_step(seed, vocabulary=5):
    """A language whose next word hangs on all the words before it, through a state."""
    generator = torch.Generator().manual_seed(seed)
    table = torch.randn(997, vocabulary, generator=generator)

    def step(words, state):
        history = (state[0] * 31 + words.unsqueeze(1) + 1) % 997
        return table[history.squeeze(1)].log_softmax(dim=1), (history,)

    return step


def start(images):
    return (torch.arange(images).unsqueeze(1) * 7,)


def own_score(step, image, words):
    """What the language itself says of a caption."""
    state, total, previous = (start(image + 1)[0][image:],), 0.0, BOS
    for word in [*words, EOS]:
        log_probs, state = step(torch.tensor([previous]), state)
        total, previous = total + float(log_probs[0, word]), word
    return total


@pytest.mark.parametrize("seed", range(20))
def test_a_beam_of_one_is_greedy(seed):
    step = random_step(seed)
    narrow = beam_search(step, start(4), beam=1, **WORDS)
    for [from_beam], from_greedy in zip(narrow, greedy(step, start(4), **WORDS), strict=True):
        assert from_beam.words == from_greedy.words
        assert from_beam.log_prob == pytest.approx(from_greedy.log_prob)


@pytest.mark.parametrize("seed", range(20))
def test_a_wide_beam_is_exhaustive_search(seed):
    step = forbid(random_step(seed), [BOS])
    possible = [words for length in range(4) for words in itertools.product([A, B, C], repeat=length)]
    found = beam_search(step, start(2), beam=len(possible), **WORDS)
    for image, captions in enumerate(found):
        expected = max(possible, key=lambda words: own_score(step, image, words) / (len(words) + 1))
        assert captions[0].words == list(expected)
        assert len(captions) == len(possible)


@pytest.mark.parametrize("beam", [1, 2, 3, 5])
def test_every_score_is_the_languages_own_score_of_that_caption(beam):
    step = random_step(3)
    for image, captions in enumerate(beam_search(step, start(6), beam=beam, **WORDS)):
        assert len(captions) == beam
        for caption in captions:
            assert caption.log_prob == pytest.approx(own_score(step, image, caption.words), abs=1e-4)


@pytest.mark.parametrize("alpha", [0, 0.7, 1])
def test_captions_come_best_first_by_log_probability_over_length(alpha):
    for captions in beam_search(random_step(5), start(6), beam=4, length_alpha=alpha, **WORDS):
        scores = [caption.log_prob / (len(caption.words) + 1) ** alpha for caption in captions]
        assert scores == sorted(scores, reverse=True)


def test_a_smaller_alpha_never_prefers_the_longer_caption():
    step = random_step(11)
    short, long = (beam_search(step, start(8), beam=5, length_alpha=alpha, **WORDS) for alpha in (0, 1))
    pairs = [(len(one[0].words), len(other[0].words)) for one, other in zip(short, long, strict=True)]
    assert all(one <= other for one, other in pairs)
    assert any(one < other for one, other in pairs)


def test_an_image_gets_the_same_captions_alone_as_in_a_batch():
    step = random_step(7)
    together = beam_search(step, start(5), beam=3, **WORDS)
    for image in range(5):
        [alone] = beam_search(step, (start(5)[0][image : image + 1],), beam=3, **WORDS)
        assert [caption.words for caption in alone] == [caption.words for caption in together[image]]


def test_no_caption_is_longer_than_allowed():
    endless = language({BOS: {A: 1.0}, A: {A: 0.9, EOS: 0.1}})
    [[caption, *_]] = beam_search(endless, state_of(1), beam=1, **WORDS)
    assert caption.words == greedy(endless, state_of(1), **WORDS)[0].words == [A, A, A]


@pytest.mark.parametrize("seed", range(10))
def test_forbidden_words_are_never_said(seed):
    step = forbid(random_step(seed), [BOS, B])
    said = [caption for captions in beam_search(step, start(8), beam=3, **WORDS) for caption in captions]
    assert not any({BOS, B} & set(caption.words) for caption in [*said, *greedy(step, start(8), **WORDS)])


def test_only_living_beams_are_stepped():
    rows = []
    step = random_step(1)

    def counting(words, state):
        rows.append(len(words))
        return step(words, state)

    beam_search(counting, start(4), beam=3, **WORDS)
    assert rows[0] == 4  # one row for each image before the first word
    assert all(count <= 12 for count in rows)
    assert rows[-1] < 12
