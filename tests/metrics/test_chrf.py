"""chrF equals sacreBLEU's."""

import math
import random

import numpy as np
import pytest
from sacrebleu.metrics.chrf import CHRF

from captioner.metrics.chrf import chrf, chrf_statistics


def score(output, *references):
    return chrf(chrf_statistics(output, references)[:, None]).item()


def test_counts_are_the_outputs_ngrams_the_references_and_the_matches():
    # "abab": a, b twice; ab twice and ba; aba, bab; abab. "ab c": a, b, c; ab, bc; abc.
    ours, theirs, matches = chrf_statistics("abab", ["ab c"]).reshape(3, 6).tolist()
    assert ours == [4, 3, 2, 0, 0, 0]  # "ab c" has no n-grams of four characters
    assert theirs == [3, 2, 1, 0, 0, 0]
    assert matches == [2, 1, 0, 0, 0, 0]


def test_the_score_weighs_recall_four_times_over_the_lengths_that_both_have():
    precision = (2 / 4 + 1 / 3 + 0 / 2) / 3
    recall = (2 / 3 + 1 / 2 + 0 / 1) / 3
    expected = 5 * precision * recall / (4 * precision + recall)
    assert score("abab", "ab c") == pytest.approx(expected, abs=1e-12)


def test_the_reference_with_the_highest_score_is_used():
    assert score("a dog", "a cat", "a dog", "a bird") == 1
    assert score("a dog", "a cat") < 1


@pytest.mark.parametrize(("output", "reference"), [("", "a dog"), ("a dog", ""), ("x", "dog")])
def test_nothing_in_common_scores_zero(output, reference):
    assert score(output, reference) == 0


def test_sums_of_many_texts_equal_sacrebleus_score_of_each_and_of_the_set():
    rng = random.Random(0)
    texts = ["".join(rng.choices("aäb c.", k=rng.randint(0, 15))) for _ in range(400)]
    outputs, references = texts[:100], [texts[100:200], texts[200:300], texts[300:]]
    counts = np.array(
        [chrf_statistics(out, refs) for out, *refs in zip(outputs, *references, strict=True)]
    )
    library = CHRF()
    expected = library.corpus_score(outputs, references).score / 100
    assert chrf(counts.sum(axis=0)[:, None]).item() == pytest.approx(expected, abs=1e-12)
    each = [
        library.sentence_score(out, refs).score / 100
        for out, *refs in zip(outputs, *references, strict=True)
    ]
    assert chrf(counts.T).tolist() == pytest.approx(each, abs=1e-12)
    assert not math.isclose(min(each), max(each))
