"""BLEU equals COCO's BLEU."""

import math

import numpy as np
import pytest

from captioner.metrics.bleu import Bleu, bleu


def words(caption):
    return caption.split()


def test_a_candidate_equal_to_a_reference_scores_one():
    caption = words("a dog runs on the beach")
    assert Bleu([[["something", "else"], caption]]).score([caption]) == pytest.approx(
        (1, 1, 1, 1), abs=1e-8
    )


def test_the_score_is_the_geometric_mean_of_the_precisions():
    # "the cat sat on a mat": 5 of 6 words, 3 of 5 bigrams, 2 of 4 trigrams and 1 of 3 4-grams are
    # in the reference.
    scores = Bleu([[words("the cat sat on the mat")]]).score([words("the cat sat on a mat")])
    matched = [5 / 6, 3 / 5, 2 / 4, 1 / 3]
    assert scores == pytest.approx(
        [math.prod(matched[:n]) ** (1 / n) for n in (1, 2, 3, 4)], abs=1e-8
    )


def test_a_repeated_word_is_clipped_at_its_largest_count_in_one_reference():
    references = [[words("the cat is on the mat"), words("there is a cat on the mat")]]
    assert Bleu(references).score([["the"] * 7])[0] == pytest.approx(2 / 7)


def test_the_brevity_penalty_uses_the_reference_closest_in_length():
    # 3 words against 5 and 9: precision 1, penalty exp(1 - 5/3)
    references = [[words("a dog runs very fast"), words("a dog runs on the beach in the sun")]]
    assert Bleu(references).score([words("a dog runs")])[0] == pytest.approx(math.exp(1 - 5 / 3))


def test_of_two_references_equally_close_in_length_the_shorter_is_used():
    references = [words("a dog"), words("a dog runs fast")]
    for captions in (references, references[::-1]):
        assert Bleu([captions]).score([words("a dog runs")])[0] == pytest.approx(1)


def test_counts_are_summed_over_images_before_dividing():
    # 1 of 1 word and 1 of 3 words: 2 of 4, not the mean of 1 and 1/3
    scores = Bleu([[["dog"]], [["a", "red", "cat"]]]).score([["dog"], ["a", "blue", "bird"]])
    assert scores[0] == pytest.approx(2 / 4)


def test_a_candidate_without_words_scores_zero():
    assert Bleu([[["a", "dog"]]]).score([[]]) == (0, 0, 0, 0)


def test_a_row_of_statistics_holds_lengths_matches_and_totals():
    # "the cat sat on a mat": see above; the closest reference has seven words
    references = [[words("the cat sat on the big mat"), words("a cat")]]
    assert Bleu(references).statistics([words("the cat sat on a mat")]) == [
        (6, 7, 6, 3, 2, 1, 6, 5, 4, 3)
    ]


def test_the_rows_of_some_images_sum_to_the_bleu_of_those_images(random_captions):
    references, candidates = random_captions(20, shortest=4)
    rows = Bleu(references).statistics(candidates)
    some = [3, 5, 5, 11]
    expected = Bleu([references[i] for i in some]).score([candidates[i] for i in some])
    assert bleu([sum(column) for column in zip(*(rows[i] for i in some), strict=True)]) == expected


def test_sums_of_many_samples_give_the_bleu_of_each(random_captions):
    references, candidates = random_captions(20, shortest=0)
    rows = np.array(Bleu(references).statistics(candidates), dtype=float)
    of_each = [bleu(row) for row in rows.tolist()]
    assert list(zip(*bleu(rows.T), strict=True)) == [
        pytest.approx(scores, abs=1e-12) for scores in of_each
    ]


def test_a_set_without_images_scores_zero():
    assert Bleu([]).score([]) == (0, 0, 0, 0)


def test_more_candidates_than_images_are_an_error():
    with pytest.raises(ValueError, match="zip"):
        Bleu([[["a"]]]).score([["a"], ["b"]])


def test_it_equals_nltk_on_captions_of_four_words_and_more(random_captions):
    nltk = pytest.importorskip("nltk.translate.bleu_score")
    references, candidates = random_captions(300, shortest=4)
    expected = [nltk.corpus_bleu(references, candidates, weights=[1 / n] * n) for n in (1, 2, 3, 4)]
    assert Bleu(references).score(candidates) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("shortest", [0, 1, 4])
def test_it_equals_cocos_tool(random_captions, as_coco, shortest):
    coco = pytest.importorskip("pycocoevalcap.bleu.bleu")
    references, candidates = random_captions(1000, shortest=shortest)
    expected, each = coco.Bleu(4).compute_score(
        as_coco(references), as_coco([[c] for c in candidates]), verbose=0
    )
    assert Bleu(references).score(candidates) == pytest.approx(expected, abs=1e-9)
    of_images = zip(*map(bleu, Bleu(references).statistics(candidates)), strict=True)
    assert list(of_images) == [pytest.approx(scores, abs=1e-9) for scores in each]


@pytest.mark.parametrize("candidate", ["", "dog", "a dog", "zebra", "a dog runs off"])
def test_it_equals_cocos_tool_on_one_short_caption(as_coco, candidate):
    coco = pytest.importorskip("pycocoevalcap.bleu.bleu")
    references = [[["a", "dog", "runs"], ["one", "dog"]]]
    expected, _ = coco.Bleu(4).compute_score(as_coco(references), {0: [candidate]}, verbose=0)
    assert Bleu(references).score([candidate.split()]) == pytest.approx(expected, abs=1e-9)
