"""From settings to a search: slots, rules and random numbers, on languages computed by hand."""

import pytest
import torch

from captioner.config.schema import DecodingConfig
from captioner.decoding.search import build_search
from captioner.text.tokenizer import BOS, EOS, SPECIALS, Vocabulary

VOCABULARY = Vocabulary([*SPECIALS, "cat", "dog", "owl", "pig", "rat", "yak"])
WORDS = [VOCABULARY.id_of(word) for word in VOCABULARY.words[len(SPECIALS) :]]


def one_word_language(words, state):
    """A step: every caption is one word, and the words in the alphabet halve their probability."""
    log_probs = torch.full((len(words), len(VOCABULARY)), -torch.inf)
    first = words == BOS
    log_probs[~first, EOS] = 0.0
    shares = torch.tensor([0.5 ** (rank + 1) for rank in range(len(WORDS))])
    log_probs[:, WORDS] = torch.where(first.unsqueeze(1), shares.log(), -torch.inf)
    return log_probs, state


def captions_of(images, keys=(), **settings):
    config = DecodingConfig(max_length=3, **settings)
    search = build_search(one_word_language, config, VOCABULARY)
    found = search((torch.zeros(images, 1),), keys)
    return [
        [" ".join(VOCABULARY.decode(caption.token_ids)) for caption in captions]
        for captions in found
    ]


def test_groups_get_slots_for_all_captions_that_are_asked_for():
    # Five captions from two groups: three slots each. The first group takes the three likeliest
    # words, and the second avoids them.
    [captions] = captions_of(1, captions=5, beam=1, groups=2, diversity=10.0)
    assert captions == ["cat", "dog", "owl", "pig", "rat"]


@pytest.mark.parametrize("required", [["yak"], ["yak", "rat"]])
def test_every_number_of_required_words_has_a_slot(required):
    # Without a slot for each number of required words, the search would have one beam: greedy.
    steps = []

    def counting(words, state):
        steps.append(len(words))
        log_probs, state = one_word_language(words, state)
        log_probs[:, WORDS] = log_probs[:, WORDS].logaddexp(torch.tensor(-9.0))
        return log_probs, state

    config = DecodingConfig(max_length=3, beam=1, require=required)
    [[best]] = build_search(counting, config, VOCABULARY)((torch.zeros(1, 1),), ())
    assert set(required) <= set(VOCABULARY.decode(best.token_ids))
    assert max(steps) == len(required) + 1


def test_the_samples_of_an_image_depend_on_its_key_and_on_the_seed():
    settings = {"method": "sample", "captions": 40}
    [first, second] = captions_of(2, keys=[7, 8], **settings)
    assert first != second
    assert captions_of(2, keys=[8, 7], **settings) == [second, first]
    assert captions_of(2, keys=[7, 8], seed=1, **settings) != [first, second]


def test_no_repeat_words_lets_only_function_words_occur_twice():
    # The language says "a dog" without end: the second "dog" is replaced by the next best word.
    words = Vocabulary([*SPECIALS, "a", "cat", "dog"])
    a, cat, dog = (words.id_of(word) for word in words.words[len(SPECIALS) :])

    def step(token_ids, state):
        log_probs = torch.full((len(token_ids), len(words)), -torch.inf)
        after_a = token_ids == a
        log_probs[after_a, dog], log_probs[after_a, cat] = -0.1, -3.0
        log_probs[~after_a, a] = 0.0
        return log_probs, state

    config = DecodingConfig(max_length=4, beam=1, no_repeat_words=True)
    [[best]] = build_search(step, config, words)((torch.zeros(1, 1),), ())
    assert words.decode(best.token_ids) == ["a", "dog", "a", "cat"]
