"""CIDEr-D equals COCO's CIDEr-D, and CIDEr the formula of the paper."""

import math
from collections import Counter

import pytest

from captioner.metrics.cider import Cider, CiderD, ReferenceNgrams


def words(caption):
    return caption.split()


def cider_d(references):
    return CiderD(ReferenceNgrams(references))


DOG, CAT = words("a dog runs fast"), words("two cats sit still")


def test_candidates_equal_to_their_references_score_ten():
    mean, each = cider_d([[DOG], [CAT]]).score([DOG, CAT])
    assert each == pytest.approx([10, 10])
    assert mean == pytest.approx(10)


def test_words_of_all_images_have_no_weight():
    references = [[["a", "dog"]], [["a", "cat"]]]
    _, each = cider_d(references).score([["a"], ["a", "cat"]])
    # "a" has the idf log(2/2) = 0. "a cat" equals its reference: unigrams [0, log 2] and bigram
    # log 2; it has no trigrams and no 4-grams.
    assert each == pytest.approx([0, 10 * (1 + 1 + 0 + 0) / 4])


def test_a_score_is_the_cosine_of_tf_idf_weights():
    # Both words have the idf log 2: the cosine of "dog" and "dog runs" is 1/sqrt(2), for the first
    # of four orders. One word has no bigram, two words have one: the lengths differ by one.
    _, each = cider_d([[["dog", "runs"]], [["cat"]]]).score([["dog"], ["bird"]])
    assert each == pytest.approx([10 / math.sqrt(2) / 4 * math.exp(-1 / (2 * 6**2)), 0])


def test_repeating_a_word_earns_no_more():
    scorer = cider_d([[["dog", "runs", "fast"]], [["cat"]]])
    (once, _), (twice, _) = (
        scorer.score([candidate, ["cat"]])[1]
        for candidate in (["dog", "a", "b"], ["dog", "dog", "b"])
    )
    # The length and the clipped product are equal, but the norm is sqrt(4+1), not sqrt(1+1+1).
    assert twice == pytest.approx(once * math.sqrt(3) / math.sqrt(5))


def test_an_image_scores_the_mean_over_its_references():
    _, (both, _) = cider_d([[DOG, ["something"]], [CAT]]).score([DOG, CAT])
    _, (one, _) = cider_d([[DOG], [CAT]]).score([DOG, CAT])
    assert both == pytest.approx(one / 2)


def test_a_candidate_without_words_scores_nothing():
    assert cider_d([[DOG], [CAT]]).score([[], CAT]) == (pytest.approx(5), [0, pytest.approx(10)])


def test_one_image_alone_scores_nothing():
    # Every n-gram is in every image, so that none tells images apart; COCO's tool says the same.
    assert cider_d([[DOG]]).score([DOG]) == (0, [0])


def test_scoring_twice_gives_the_same_scores():
    scorer = cider_d([[DOG], [CAT]])
    first = scorer.score([DOG, DOG])
    scorer.score([["quite", "another"], CAT])
    assert scorer.score([DOG, DOG]) == first


def test_scores_do_not_depend_on_how_strings_are_hashed(random_captions, printed):
    references, candidates = random_captions(20, shortest=4)
    imports = "from captioner.metrics.cider import CiderD, ReferenceNgrams"
    assert (
        len(printed(f"{imports}; print(CiderD(ReferenceNgrams({references})).score({candidates}))"))
        == 1
    )


def test_more_candidates_than_images_are_an_error():
    with pytest.raises(ValueError, match="2 candidates for 1"):
        cider_d([[DOG]]).score([DOG, CAT])


@pytest.mark.parametrize("shortest", [0, 1, 4])
def test_it_equals_cocos_tool(random_captions, as_coco, shortest):
    coco = pytest.importorskip("pycocoevalcap.cider.cider")
    references, candidates = random_captions(1000, shortest=shortest)
    mean, each = coco.Cider().compute_score(as_coco(references), as_coco([[c] for c in candidates]))
    assert cider_d(references).score(candidates) == (
        pytest.approx(mean, abs=1e-9),
        pytest.approx(list(each), abs=1e-9),
    )


def test_it_equals_cocos_tool_on_words_that_no_reference_has(random_captions, as_coco):
    coco = pytest.importorskip("pycocoevalcap.cider.cider")
    references, candidates = random_captions(100, shortest=2)
    # A new word twice has another norm than two new words: n-grams in no reference are counted too.
    candidates = [
        [*caption, "zebra", ("zebra", "okapi")[i % 2], "a"] for i, caption in enumerate(candidates)
    ]
    _, each = coco.Cider().compute_score(as_coco(references), as_coco([[c] for c in candidates]))
    assert cider_d(references).score(candidates)[1] == pytest.approx(list(each), abs=1e-9)


def test_any_captions_of_any_images_can_be_scored_together(random_captions):
    references, candidates = random_captions(20, shortest=0)
    scorer, images = cider_d(references), [7, 7, 7, 0, 19, 7, 3]
    alone = [
        scorer.score([caption] * 20)[1][image]
        for image, caption in zip(images, candidates, strict=False)
    ]
    assert scorer.score_each(images, candidates[:7]) == pytest.approx(alone, abs=1e-12)


def plain_cider(references, candidates):
    """Vedantam et al. 2015, equations 1 to 3; n-grams in no reference count as in one image."""

    def ngrams(caption, n):
        return [tuple(caption[i : i + n]) for i in range(len(caption) - n + 1)]

    def tf_idf(caption, n):
        counts = Counter(ngrams(caption, n))
        total = sum(counts.values())
        weights = {}
        for ngram, count in counts.items():
            images = sum(
                any(ngram in ngrams(other, n) for other in captions) for captions in references
            )
            weights[ngram] = count / total * math.log(len(references) / max(1, images))
        return weights

    def cosine(one, two):
        norms = math.hypot(*one.values()) * math.hypot(*two.values())
        return (
            sum(weight * two.get(ngram, 0) for ngram, weight in one.items()) / norms if norms else 0
        )

    return [
        10
        / 4
        * sum(
            cosine(tf_idf(caption, n), tf_idf(other, n)) for n in (1, 2, 3, 4) for other in captions
        )
        / len(captions)
        for caption, captions in zip(candidates, references, strict=True)
    ]


@pytest.mark.parametrize("shortest", [0, 4])
def test_plain_cider_is_the_formula_of_the_paper(random_captions, shortest):
    references, candidates = random_captions(20, shortest=shortest)
    expected = plain_cider(references, candidates)
    mean, each = Cider(ReferenceNgrams(references)).score(candidates)
    assert each == pytest.approx(expected, abs=1e-9)
    assert mean == pytest.approx(sum(expected) / 20, abs=1e-9)


def test_plain_cider_lets_repetition_pay_where_cider_d_does_not():
    references = [[["dog", "runs", "fast"]], [["cat"]]]
    once, twice = [["dog", "a", "b"], ["cat"]], [["dog", "dog", "b"], ["cat"]]
    ngrams = ReferenceNgrams(references)
    gains = [
        metric.score(twice)[1][0] / metric.score(once)[1][0]
        for metric in (Cider(ngrams), CiderD(ngrams))
    ]
    assert gains[0] == pytest.approx(2 * gains[1])
