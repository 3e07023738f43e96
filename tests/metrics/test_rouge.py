"""ROUGE-L equals COCO's ROUGE-L."""

import pytest

from captioner.metrics.rouge import BETA, RougeL


def words(caption):
    return caption.split()


def f_measure(precision, recall):
    return (1 + BETA**2) * precision * recall / (recall + BETA**2 * precision)


def test_a_candidate_equal_to_a_reference_scores_one():
    caption = words("a dog runs on the beach")
    assert RougeL([[words("something else"), caption]]).score([caption]) == (1, [1])


def test_words_in_between_do_not_break_a_common_subsequence():
    # police, the, gunman: three of four words on both sides
    mean, _ = RougeL([[words("police killed the gunman")]]).score([words("police kill the gunman")])
    assert mean == pytest.approx(f_measure(3 / 4, 3 / 4))


def test_words_in_another_order_break_a_common_subsequence():
    # "the gunman" is the longest common subsequence of the two captions.
    mean, _ = RougeL([[words("police killed the gunman")]]).score([words("the gunman kill police")])
    assert mean == pytest.approx(f_measure(2 / 4, 2 / 4))


def test_a_word_is_matched_as_often_as_both_have_it():
    mean, _ = RougeL([[words("a dog and a cat")]]).score([words("a a a")])
    assert mean == pytest.approx(f_measure(2 / 3, 2 / 5))


def test_the_best_precision_and_the_best_recall_may_come_from_different_references():
    references = [[words("a dog runs with two other dogs on a beach"), words("dog")]]
    mean, _ = RougeL(references).score([words("a dog runs")])
    assert mean == pytest.approx(f_measure(3 / 3, 1 / 1))


def test_the_score_is_the_mean_of_the_images():
    mean, each = RougeL([[["dog"]], [["cat"]]]).score([["dog"], ["bird"]])
    assert each == [1, 0]
    assert mean == 0.5


def test_captions_longer_than_a_machine_word_are_compared_whole():
    long = [str(n) for n in range(200)]
    mean, _ = RougeL([[long]]).score([long[:150]])
    assert mean == pytest.approx(f_measure(1, 150 / 200))


def test_a_candidate_without_words_scores_zero():
    assert RougeL([[["a", "dog"]]]).score([[]]) == (0, [0])


def test_more_candidates_than_images_are_an_error():
    with pytest.raises(ValueError, match="zip"):
        RougeL([[["a"]]]).score([["a"], ["b"]])


@pytest.mark.parametrize("shortest", [0, 1, 4])
def test_it_equals_cocos_tool(random_captions, as_coco, shortest):
    coco = pytest.importorskip("pycocoevalcap.rouge.rouge")
    references, candidates = random_captions(1000, shortest=shortest)
    mean, each = coco.Rouge().compute_score(as_coco(references), as_coco([[c] for c in candidates]))
    assert RougeL(references).score(candidates) == (
        pytest.approx(mean, abs=1e-9),
        pytest.approx(list(each), abs=1e-9),
    )
