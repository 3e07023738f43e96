"""METEOR follows Denkowski and Lavie (2011, 2014)."""

import itertools

import nltk.corpus
import numpy as np
import pytest

from captioner.metrics.meteor import (
    ALPHA,
    BETA,
    FUNCTION_WORDS,
    GAMMA,
    Meteor,
    meteor,
)


class NoWordnet:
    def ensure_loaded(self):
        raise LookupError


class Meaning:
    def __init__(self, name):
        self.name = lambda: name


class TinyWordnet:
    def ensure_loaded(self):
        pass

    def synsets(self, word):
        meanings = {"puppy": ["dog.n.01", "pup.n.02"], "dog": ["dog.n.01"], "dogs": ["dog.n.01"]}
        return [Meaning(name) for name in meanings.get(word, [])]


@pytest.fixture(autouse=True)
def no_wordnet(monkeypatch):
    """Make the tests independent of whether WordNet's data is installed."""
    monkeypatch.setattr(nltk.corpus, "wordnet", NoWordnet())


def words(caption):
    return caption.split()


def score(candidate, *references):
    corpus, (alone,) = Meteor([[words(reference) for reference in references]]).score(
        [words(candidate)]
    )
    assert corpus == pytest.approx(alone)
    return alone


def formula(precision, recall, fragmentation):
    mean = precision * recall / (ALPHA * precision + (1 - ALPHA) * recall)
    return mean * (1 - GAMMA * fragmentation**BETA)


def test_a_candidate_equal_to_a_reference_scores_one():
    assert score(
        "a dog runs on the beach", "something else", "a dog runs on the beach"
    ) == pytest.approx(1)


def test_content_words_weigh_three_times_as_much_as_function_words():
    # "a" and "dog" match in one chunk: a quarter and three quarters, of 1.75 and 2.5
    assert {"a"} == FUNCTION_WORDS & {"a", "dog", "runs", "swims", "far"}
    assert score("a dog runs", "a dog swims far") == pytest.approx(
        formula(1 / 1.75, 1 / 2.5, 1 / 2)
    )


def test_words_of_one_stem_count_six_tenths():
    assert score("dogs bark", "dog barks") == pytest.approx(formula(0.6, 0.6, 0))
    assert score("dogs bark", "dog bark") == pytest.approx(formula(1.6 / 2, 1.6 / 2, 0))


def test_words_in_another_order_make_more_chunks():
    # Everything matches: "red dog" and "big cat" are two chunks of four words
    assert score("big cat red dog", "red dog big cat") == pytest.approx(formula(1, 1, 2 / 4))


def test_a_word_is_matched_once():
    assert score("dog dog dog", "dog") == pytest.approx(formula(1 / 3, 1, 1))


def test_the_best_reference_is_used_in_any_order():
    references = ["a cat sits", "a dog runs far", "dogs run", "a red dog"]
    scores = [score("a dog runs", *order) for order in itertools.permutations(references)]
    assert scores == pytest.approx(
        [max(score("a dog runs", reference) for reference in references)] * 24
    )


@pytest.mark.parametrize(
    ("candidate", "reference"), [("", "a dog"), ("cat", "dog"), ("a dog", ""), ("", "")]
)
def test_captions_without_common_words_score_zero(candidate, reference):
    assert score(candidate, reference) == 0


def test_the_score_of_the_set_is_computed_from_sums():
    metric = Meteor([[words("a dog runs")], [words("two red cats")]])
    candidates = [words("a dog"), words("cats")]
    corpus, each = metric.score(candidates)
    assert metric.name == "METEOR_no_paraphrases"
    # First image: weight 1 of 1 and of 1.75, two matches. Second image: weight 0.75 of 0.75 and of
    # 1.75 ("two" is a function word), one match.
    rows = [(1, 1, 1, 1.75, 2, 1), (0.75, 0.75, 0.75, 1.75, 1, 1)]
    assert metric.statistics(candidates) == [pytest.approx(row) for row in rows]
    assert each == pytest.approx([formula(1, 1 / 1.75, 1 / 2), formula(1, 0.75 / 1.75, 1)])
    assert corpus == pytest.approx(formula(1, 1.75 / 3.5, 2 / 3))


def test_sums_of_many_samples_give_the_meteor_of_each(random_captions):
    references, candidates = random_captions(20, shortest=0)
    rows = np.array(Meteor(references).statistics(candidates))
    assert list(meteor(rows.T)) == pytest.approx([meteor(row) for row in rows.tolist()], abs=1e-12)


def test_a_set_without_images_scores_zero():
    assert Meteor([]).score([]) == (0, [])


def test_more_candidates_than_images_are_an_error():
    with pytest.raises(ValueError, match="zip"):
        Meteor([[["a"]]]).score([["a"], ["b"]])


def test_without_wordnet_synonyms_do_not_match():
    metric = Meteor([[["dog"]]])
    assert metric.stages == "exact+stem"
    assert metric.score([["puppy"]]) == (0, [0])


def test_with_wordnet_words_that_share_a_meaning_count_eight_tenths(monkeypatch):
    monkeypatch.setattr(nltk.corpus, "wordnet", TinyWordnet())
    metric = Meteor([[words("red dog")], [words("red dogs")], [words("red dog")]])
    assert metric.stages == "exact+stem+wordnet"
    _, each = metric.score([words("red puppy"), words("red dog"), words("red cat")])
    # "dog" and "dogs" share a stem as well, which comes first
    assert each == pytest.approx([formula(0.9, 0.9, 0), formula(0.8, 0.8, 0), formula(0.5, 0.5, 1)])
