"""Diversity: distinct captions, repeated words, and captions that are not in training."""

import pytest

from captioner.metrics.diversity import measure_diversity


def measure(*captions, **options):
    return measure_diversity([caption.split() for caption in captions], **options)


def test_lengths_words_and_different_captions_are_counted():
    diversity = measure("a dog", "a dog", "a cat sits still")
    assert diversity.mean_length == (2 + 2 + 4) / 3
    assert diversity.vocabulary == len({"a", "dog", "cat", "sits", "still"})
    assert diversity.distinct == 2 / 3


@pytest.mark.parametrize(
    ("caption", "repeats"),
    [
        ("a dog dog runs", True),
        ("a man and a man", True),
        ("dog dog", True),
        ("a man and a dog and the cat", False),
        ("a", False),
        ("", False),
    ],
)
def test_a_word_twice_in_a_row_or_a_pair_of_words_twice_is_repetition(caption, repeats):
    assert measure(caption).repetitive == repeats


def test_captions_not_in_training_are_counted_if_training_is_known():
    assert measure("a dog", "a cat").unseen is None
    assert measure("a dog", "a cat", training={("a", "dog")}).unseen == 1 / 2
    assert measure("a dog", training=set()).unseen == 1


def test_captions_without_words_are_measured():
    assert measure("").mean_length == measure("").vocabulary == 0
