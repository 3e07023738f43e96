"""From settings to a search: slots, rules and random numbers, on languages computed by hand."""

import pytest
import torch

from captioner.config.schema import DecodingConfig
from captioner.decoding.search import build_search
from captioner.errors import UsageError
from captioner.text.multilingual import CharacterTokenizer, WordTokenizer
from captioner.text.tokenizer import BOS, CAPTION_TOKENIZER, EOS, SPECIALS, Vocabulary

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


@pytest.mark.parametrize("rule", ["no_repeat_words", "no_double_words"])
def test_the_vocabulary_is_looked_through_once_for_all_searches(rule):
    looked_up = []

    class Counting(Vocabulary):
        def id_of(self, word):
            looked_up.append(word)
            return super().id_of(word)

    config = DecodingConfig(**{rule: True})
    for words in ([rule, "the", "慢"], [rule, "an", "慢"]):  # of this test only
        vocabulary = Counting([*SPECIALS, *words], CAPTION_TOKENIZER)
        build_search(one_word_language, config, vocabulary)
        assert "慢" in looked_up  # another vocabulary is looked through too
        looked_up.clear()
        build_search(one_word_language, config, vocabulary)
        assert looked_up == []


def doubled(words, tokenizer, **settings):
    """The caption of a language that says each word twice, where the rules allow it, in order."""
    vocabulary = Vocabulary([*SPECIALS, *words], tokenizer)
    spoken = [vocabulary.id_of(word) for word in words for _ in range(2)]

    def step(token_ids, state):
        log_probs = torch.full((len(token_ids), len(vocabulary)), -50.0)
        for row, position in enumerate(state[0].long().flatten().tolist()):
            following = spoken[position:]
            for rank, token in enumerate(following):
                log_probs[row, token] = max(float(log_probs[row, token]), -float(rank))
            if not following:
                log_probs[row, EOS] = 0.0
        return log_probs, (state[0] + 1,)

    config = DecodingConfig(max_length=len(spoken), beam=1, **settings)
    [[best]] = build_search(step, config, vocabulary)((torch.zeros(1, 1),), ())
    return vocabulary.decode(best.token_ids)


@pytest.mark.parametrize("rule", ["no_double_words", "no_repeat_words"])
@pytest.mark.parametrize("tokenizer", [WordTokenizer(), CAPTION_TOKENIZER])
def test_a_character_of_a_script_without_spaces_may_come_twice(rule, tokenizer):
    # 慢慢 and กรรม have a character twice in a row: these are no repeated words
    assert doubled(["慢", "ร"], tokenizer, **{rule: True}) == ["慢", "慢", "ร", "ร"]
    assert doubled(["dog", "慢"], tokenizer, **{rule: True})[:2] == ["dog", "慢"]


def test_no_repeat_words_lets_punctuation_and_capitalised_function_words_occur_twice():
    words = [",", "A", " "]
    twice = [",", ",", "A", "A", " ", " "]
    assert doubled(words, WordTokenizer(), no_repeat_words=True) == twice
    # in COCO's words, "&" is a word, and none is punctuation
    assert doubled(["&", "dog"], CAPTION_TOKENIZER, no_repeat_words=True)[:2] == ["&", "dog"]


@pytest.mark.parametrize("rule", ["no_double_words", "no_repeat_words"])
def test_rules_about_words_are_refused_where_tokens_are_parts_of_words(rule):
    with pytest.raises(UsageError, match=f"{rule} is about words, but .* are characters"):
        doubled(["l", "o"], CharacterTokenizer(), **{rule: True})
    assert doubled(["l", "o"], CharacterTokenizer(), no_repeat_ngram=2)[:2] == ["l", "l"]
