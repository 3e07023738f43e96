"""What a model cannot learn from its training data, as errors and warnings."""

import logging
from collections import Counter

import pytest

from captioner.config.run import DataConfig
from captioner.data.datasets import Example
from captioner.data.learnable import record_few_examples, record_poor_data, refuse_poor_data
from captioner.data.parallel import Pair
from captioner.data.plain_text import TextExample
from captioner.data.problems import Problems
from captioner.errors import UsageError
from captioner.text.multilingual import WordTokenizer
from captioner.text.tokenizer import Vocabulary, tokenize


def poor(*captions, min_count=1, max_length=30, words=()):
    """Return the kinds of problems of captions, and which of them are errors."""
    problems = Problems("x")
    tokenized = [tokenize(caption) for caption in captions]
    record_poor_data(
        problems,
        Counter(word for tokens in tokenized for word in tokens),
        Counter(map(len, tokenized)),
        noun="captions",
        min_count=min_count,
        max_length=max_length,
        words=words,
    )
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


def test_captions_that_are_cut_are_counted_with_the_longest():
    kind = "captions of more than data.max_length=3 tokens, cut and learnt as if they ended there"
    captions = ["a b c", "a b c d", "a b c d e"]
    assert poor(*captions, max_length=3) == {kind: (False, ["2 of 3, the longest has 5"])}
    assert poor(*captions, max_length=None) == {}


@pytest.mark.parametrize(("number", "is_error"), [(0, True), (1, False), (2, None)])
def test_no_example_is_an_error_and_a_single_one_a_warning(number, is_error):
    problems = Problems("x")
    record_few_examples(problems, number, "image")
    assert [it.is_error for it in problems] == ([] if is_error is None else [is_error])


def vocabulary(*texts, min_count=1, tokenizer=None):
    tokenizer = tokenizer or WordTokenizer()
    return Vocabulary.from_captions(map(tokenizer.tokenize, texts), min_count, tokenizer)


def test_both_sides_of_pairs_are_looked_at_with_their_own_vocabularies(caplog):
    pairs = [Pair("line 1", "eins zwei drei", ("one two",)), Pair("line 2", "vier", ("one",))]
    target, source = vocabulary("one two one"), vocabulary("x")
    data = DataConfig(min_count=2, max_length=2)
    with caplog.at_level(logging.WARNING, "captioner"), pytest.raises(UsageError) as caught:
        refuse_poor_data(pairs, target, source, data)
    assert str(caught.value) == (
        "data.train: sources whose words are all rarer than data.min_count=2: lower it (1): "
        "the most frequent is 'eins', 1 time"
    )
    assert ["sources of more than data.max_length=2 tokens" in it for it in caplog.messages] == [
        True
    ]


def test_captions_without_images_count_as_captions_but_not_as_examples(tmp_path, caplog):
    image = Example(1, tmp_path / "1.jpg", ("a dog",))
    text = [TextExample("line 1", "a cat"), TextExample("line 2", "a cat")]
    known = vocabulary("a a a")
    with caplog.at_level(logging.WARNING, "captioner"):
        refuse_poor_data([image, *text], known, known, DataConfig(min_count=2))
    assert caplog.messages == [
        "data.train: too few images to learn from (1): "
        "there is one image, so a model can only learn to repeat it"
    ]
