"""The paired comparison of two sets of captions."""

import json

import pytest

from captioner.metrics.scorer import METRIC_LABELS, Scorer
from captioner.metrics.significance import MAX_EXAMPLES, MIN_IMAGES, compare

IMAGES = 3 * MIN_IMAGES
REFERENCES = {
    i: [f"the {i} dogs run with a ball {' and a ball' * (i % 7)}", f"{i} dogs"]
    for i in range(IMAGES)
}
GOOD = {i: captions[0] for i, captions in REFERENCES.items()}
BAD = {i: caption.replace("dogs", "cats") for i, caption in GOOD.items()}


@pytest.fixture(scope="module")
def comparing():
    scorer = Scorer(REFERENCES)
    return lambda a, b: compare(a, scorer.score(a), b, scorer.score(b))


def test_clearly_better_captions_win_every_resample_in_every_metric(comparing):
    comparison = comparing(BAD, GOOD)
    for difference in comparison.differences.values():
        assert difference.difference == pytest.approx(difference.b - difference.a)
        assert 0 < difference.low <= difference.difference <= difference.high
        assert difference.b_wins == 1
    assert comparison.verdict.startswith("b is better: CIDEr-D +")
    assert "but" not in comparison.verdict


def test_swapping_the_two_sets_mirrors_the_result(comparing):
    there, back = comparing(BAD, GOOD), comparing(GOOD, BAD)
    for name, (a, b, difference, low, high, b_wins) in there.differences.items():
        assert back.differences[name] == pytest.approx((b, a, -difference, -high, -low, 1 - b_wins))
    assert back.verdict == there.verdict.replace("b is better", "a is better")
    for forth, mirrored in ((there.better_a, back.better_b), (there.better_b, back.better_a)):
        gains = [abs(contrast.score_b - contrast.score_a) for contrast in forth]
        assert gains == [abs(contrast.score_b - contrast.score_a) for contrast in mirrored]


def test_equal_captions_have_no_difference(comparing):
    comparison = comparing(GOOD, GOOD)
    for a, b, *rest in comparison.differences.values():
        assert a == b
        assert rest == [0, 0, 0, 0.5]
    assert comparison.verdict.startswith(f"no significant difference on these {IMAGES} images")
    assert comparison.better_a == comparison.better_b == []


def test_a_random_difference_is_not_significant(comparing):
    a = {i: (GOOD if i % 2 else BAD)[i] for i in REFERENCES}
    b = {i: (BAD if i % 2 else GOOD)[i] for i in REFERENCES}
    comparison = comparing(a, b)
    low, high, b_wins = comparison.differences["CIDEr"][3:]
    assert low < 0 < high
    assert 0.2 < b_wins < 0.8
    assert comparison.verdict.startswith("no significant difference")


def test_the_images_that_differ_most_are_shown_both_ways_with_both_captions(comparing):
    worse, better = range(3), range(10, 10 + 2 * MAX_EXAMPLES)
    a = {i: BAD[i] if i in better else GOOD[i] for i in REFERENCES}
    b = {i: BAD[i] if i in worse else GOOD[i] for i in REFERENCES}
    comparison = comparing(a, b)
    assert {contrast.image_id for contrast in comparison.better_a} == set(worse)
    assert len(comparison.better_b) == MAX_EXAMPLES
    gains = [contrast.score_b - contrast.score_a for contrast in comparison.better_b]
    assert gains == sorted(gains, reverse=True)
    for contrast in comparison.better_b:
        assert contrast.image_id in better
        assert (contrast.a, contrast.b) == (BAD[contrast.image_id], GOOD[contrast.image_id])


def test_the_verdict_names_metrics_that_disagree(comparing):
    # Rare words weigh most in CIDEr-D, and all words alike in BLEU-1.
    references = {i: [f"the dogs run with a ball number{i}"] for i in range(IMAGES)}
    scorer = Scorer(references)
    common = dict.fromkeys(references, "the dogs run with a ball somewhere")
    rare = {i: f"number{i} number{i} number{i} number{i}" for i in references}
    verdict = compare(common, scorer.score(common), rare, scorer.score(rare)).verdict
    assert verdict.startswith("b is better: CIDEr-D")
    assert "but not by BLEU-1" in verdict


def test_too_few_images_give_no_verdict():
    few = {i: REFERENCES[i] for i in range(MIN_IMAGES - 1)}
    good, bad = ({i: captions[i] for i in few} for captions in (GOOD, BAD))
    scorer = Scorer(few)
    verdict = compare(bad, scorer.score(bad), good, scorer.score(good)).verdict
    assert verdict.startswith(f"{MIN_IMAGES - 1} images are too few to tell")


def test_json_and_table_hold_metrics_verdict_images_and_signature(comparing):
    comparison = comparing(BAD, GOOD)
    values = json.loads(json.dumps(comparison.as_dict()))
    assert values["metrics"]["CIDEr"] == comparison.differences["CIDEr"]._asdict()
    assert values["better_b"][0]["b"] == comparison.better_b[0].b
    table = comparison.table()
    for part in (
        *(METRIC_LABELS[name] for name in comparison.differences),
        comparison.verdict,
        comparison.better_b[0].a,
        comparison.signature,
    ):
        assert part in table


def test_control_characters_of_a_caption_are_not_printed(comparing):
    table = comparing(GOOD, {**BAD, 0: "\x1b[2Ja\ncat"}).table()
    assert "\x1b" not in table
    assert "[2Ja cat" in table
