"""Diversity says whether captions vary, repeat themselves, or are known from training."""

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


def test_captions_that_training_did_not_hold_are_counted_where_it_is_known():
    assert measure("a dog", "a cat").unseen is None
    assert measure("a dog", "a cat", seen={("a", "dog")}).unseen == 1 / 2
    assert measure("a dog", seen=set()).unseen == 1


def test_captions_without_words_are_measured():
    assert measure("").mean_length == measure("").vocabulary == 0
