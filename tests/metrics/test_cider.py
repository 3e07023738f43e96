"""CIDEr-D is COCO's CIDEr-D."""

import math
import subprocess
import sys

import pytest

from captioner.metrics.cider import CiderD


def words(caption):
    return caption.split()


DOG, CAT = words("a dog runs fast"), words("two cats sit still")


def test_candidates_equal_to_their_references_score_ten():
    mean, each = CiderD([[DOG], [CAT]]).score([DOG, CAT])
    assert each == pytest.approx([10, 10])
    assert mean == pytest.approx(10)


def test_words_that_every_image_has_count_nothing():
    references = [[["a", "dog"]], [["a", "cat"]]]
    _, each = CiderD(references).score([["a"], ["a", "cat"]])
    # "a": idf log(2/2) = 0. "a cat": words [0, log 2] and pair log 2 are all as in the reference; no triples, no fours
    assert each == pytest.approx([0, 10 * (1 + 1 + 0 + 0) / 4])


def test_a_score_is_the_cosine_of_tf_idf_weights():
    # Both words have idf log 2: "dog" against "dog runs" is a cosine of 1/sqrt(2), for the first of four orders.
    # One word has no pairs, two have one: lengths differ by one.
    _, each = CiderD([[["dog", "runs"]], [["cat"]]]).score([["dog"], ["bird"]])
    assert each == pytest.approx([10 / math.sqrt(2) / 4 * math.exp(-1 / (2 * 6**2)), 0])


def test_repeating_a_word_earns_no_more():
    scorer = CiderD([[["dog", "runs", "fast"]], [["cat"]]])
    (once, _), (twice, _) = (
        scorer.score([candidate, ["cat"]])[1] for candidate in (["dog", "a", "b"], ["dog", "dog", "b"])
    )
    # The same length and the same clipped product, but a longer vector: sqrt(1+1+1) against sqrt(4+1).
    assert twice == pytest.approx(once * math.sqrt(3) / math.sqrt(5))


def test_an_image_scores_the_mean_over_its_references():
    _, (both, _) = CiderD([[DOG, ["something"]], [CAT]]).score([DOG, CAT])
    _, (one, _) = CiderD([[DOG], [CAT]]).score([DOG, CAT])
    assert both == pytest.approx(one / 2)


def test_a_candidate_without_words_scores_nothing():
    assert CiderD([[DOG], [CAT]]).score([[], CAT]) == (pytest.approx(5), [0, pytest.approx(10)])


def test_one_image_alone_scores_nothing():
    # Every n-gram is in every image, so that none tells images apart; COCO's tool says the same.
    assert CiderD([[DOG]]).score([DOG]) == (0, [0])


def test_scoring_twice_gives_the_same_scores():
    scorer = CiderD([[DOG], [CAT]])
    first = scorer.score([DOG, DOG])
    scorer.score([["quite", "another"], CAT])
    assert scorer.score([DOG, DOG]) == first


def test_scores_do_not_depend_on_how_strings_are_hashed(random_captions):
    references, candidates = random_captions(20, shortest=4)
    code = f"from captioner.metrics.cider import CiderD; print(CiderD({references}).score({candidates}))"
    outputs = {
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={"PYTHONHASHSEED": seed}
        ).stdout
        for seed in ("1", "2")
    }
    assert len(outputs) == 1


def test_a_candidate_too_many_is_an_error():
    with pytest.raises(ValueError, match="zip"):
        CiderD([[DOG]]).score([DOG, CAT])


@pytest.mark.parametrize("shortest", [0, 1, 4])
def test_it_equals_cocos_tool(random_captions, as_coco, shortest):
    coco = pytest.importorskip("pycocoevalcap.cider.cider")
    references, candidates = random_captions(1000, shortest=shortest)
    mean, each = coco.Cider().compute_score(as_coco(references), as_coco([[c] for c in candidates]))
    assert CiderD(references).score(candidates) == (pytest.approx(mean, abs=1e-9), pytest.approx(list(each), abs=1e-9))
