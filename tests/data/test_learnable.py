"""What a model cannot learn from its training data, as errors and warnings."""

import logging
import tracemalloc
from collections import Counter

import pytest

from captioner.config.run import Config
from captioner.data.datasets import Example
from captioner.data.learnable import (
    Side,
    count_tokens,
    record_few_examples,
    record_poor_data,
    record_short_decoding,
    refuse_poor_data,
    warn_of_unknown_dev,
)
from captioner.data.parallel import Pair
from captioner.data.plain_text import TextExample
from captioner.data.problems import Problems
from captioner.errors import UsageError
from captioner.text.multilingual import WordTokenizer
from captioner.text.tokenizer import CAPTION_TOKENIZER, Vocabulary


def poor(*captions, min_count=1, words=()):
    """Return the kinds of problems of captions, and which of them are errors."""
    problems = Problems("x")
    counts = count_tokens(captions, CAPTION_TOKENIZER)
    record_poor_data(problems, counts, noun="captions", min_count=min_count, words=words)
    return {it.kind: (it.is_error, list(it.cases)) for it in problems}


def test_captions_whose_words_are_all_rare_are_an_error():
    kind = "captions whose words are all rarer than data.min_count=3: lower it"
    assert poor("a dog", "a cat", min_count=3) == {
        kind: (True, ["the most frequent is 'a', 2 times"])
    }
    assert poor("a dog", "a cat", "a bird", min_count=4)  # 3 times: still too rare
    assert kind not in poor("a dog", "a cat", "a bird", min_count=3)


def test_words_of_an_earlier_training_are_not_rare():
    assert poor("a dog", min_count=5, words={"a", "dog"}) == {}


def test_more_than_a_quarter_of_unknown_words_is_a_warning():
    captions = ["a a a dog", "a a a cat"]  # 2 of 8 words are rarer than 2
    assert poor(*captions, min_count=2) == {}
    assert poor(*captions, "bird", min_count=2) == {
        "many words of captions are <unk>: lower data.min_count=2, or add captions": (
            False,
            ["33 % of 9 words"],
        )
    }


def test_captions_without_any_word_are_an_error():
    assert poor("...", "!") == {"captions without a word": (True, ["all 2"])}


def short_decoding(*lengths, max_length, generated):
    problems = Problems("x")
    record_short_decoding(problems, Counter(lengths), max_length, generated)
    return [str(it) for it in problems]


def test_captions_longer_than_the_model_generates_are_told_as_far_as_they_are_learnt():
    told = (
        "captions have more tokens than decoding.max_length=20, which cuts what the model "
        "generates: raise it, for example to {} (1): 50 % of 4"
    )
    lengths = [10, 20, 120, 120]
    for max_length, advice in [(200, 120), (30, 30), (21, 21)]:  # longer ones are cut in training
        found = short_decoding(*lengths, max_length=max_length, generated=20)
        assert found == [told.format(advice)]
    assert short_decoding(*lengths, max_length=20, generated=20) == []
    assert short_decoding(*lengths, max_length=200, generated=120) == []


def test_a_few_captions_longer_than_the_model_generates_are_not_told():
    assert short_decoding(*[20] * 9, 21, max_length=30, generated=20) == []  # a tenth
    assert short_decoding(*[20] * 8, 21, max_length=30, generated=20)


@pytest.mark.parametrize(("number", "is_error"), [(0, True), (1, False), (2, None)])
def test_no_example_is_an_error_and_a_single_one_a_warning(number, is_error):
    problems = Problems("x")
    record_few_examples(problems, number, "image")
    assert [it.is_error for it in problems] == ([] if is_error is None else [is_error])


def vocabulary(*texts, min_count=1, tokenizer=None):
    tokenizer = tokenizer or WordTokenizer()
    return Vocabulary.from_captions(map(tokenizer.tokenize, texts), min_count, tokenizer)


def side(texts, vocabulary):
    return Side(count_tokens(texts, vocabulary.tokenizer), vocabulary)


def config(**data):
    return Config(data=data, output="run")


def test_both_sides_of_pairs_are_looked_at_with_their_own_vocabularies(caplog):
    pairs = [Pair("line 1", "eins zwei drei", ("one two",)), Pair("line 2", "vier", ("one",))]
    target, source = vocabulary("one two one"), vocabulary("x")
    sides = (side(["one two", "one"], target), side(["eins zwei drei", "vier"], source))
    with caplog.at_level(logging.WARNING, "captioner"), pytest.raises(UsageError) as caught:
        refuse_poor_data(pairs, *sides, config(min_count=2, max_length=2))
    assert str(caught.value) == (
        "data.train: sources whose words are all rarer than data.min_count=2: lower it (1): "
        "the most frequent is 'eins', 1 time"
    )
    assert caplog.messages == [
        "data.train: sources of more than data.max_length=2 tokens, cut and learnt as if they "
        "ended there (1): 1 of 2, the longest has 3"
    ]


def test_captions_without_images_count_as_captions_but_not_as_examples(tmp_path, caplog):
    image = Example(1, tmp_path / "1.jpg", ("a dog",))
    text = [TextExample("line 1", "a cat"), TextExample("line 2", "a cat")]
    known = vocabulary("a a a")
    with caplog.at_level(logging.WARNING, "captioner"):
        captions = side(["a dog", "a cat", "a cat"], known)
        refuse_poor_data([image, *text], captions, side([], known), config(min_count=2))
    assert caplog.messages == [
        "data.train: too few images to learn from (1): "
        "there is one image, so a model can only learn to repeat it"
    ]


@pytest.mark.parametrize("captions", [("...", "!"), ("un chien", "un chat")])
def test_a_dev_set_without_a_known_word_is_told(tmp_path, caplog, captions):
    known = vocabulary("a dog")
    dev = [Example(number, tmp_path, (caption,)) for number, caption in enumerate(captions)]
    with caplog.at_level(logging.WARNING, "captioner"):
        warn_of_unknown_dev(dev, known)
        assert caplog.messages == [
            "data.dev: captions of dev without a word that the model knows, so every score stays "
            "0 (1): all 2"
        ]
        caplog.clear()
        warn_of_unknown_dev([*dev, Example(3, tmp_path, ("le dog",))], known)
        warn_of_unknown_dev([], known)
    assert caplog.messages == []


def test_counting_keeps_no_tokens():
    texts = (f"a {number % 7} b c d e f g h" for number in range(20_000))
    tracemalloc.start()
    counts = count_tokens(texts, CAPTION_TOKENIZER)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert counts.lengths == {9: 20_000}
    assert counts.tokens["a"] == 20_000
    assert peak < 500_000  # bytes; 20,000 lists of 9 tokens take 2.6 million
