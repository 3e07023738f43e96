"""A scorer computes COCO's metrics, their intervals, diversity and a signature."""

import json

import pytest

from captioner.errors import UsageError
from captioner.metrics.bleu import Bleu
from captioner.metrics.cider import Cider, CiderD, ReferenceNgrams
from captioner.metrics.diversity import measure_diversity
from captioner.metrics.java import JAVA_METRICS
from captioner.metrics.meteor import Meteor
from captioner.metrics.rouge import RougeL
from captioner.metrics.scorer import METRIC_LABELS, Scorer
from captioner.text.tokenizer import tokenize

REFERENCES = {
    7: ["A dog runs on the beach.", "The dog is running!"],
    "cat": ["A cat sits on a mat."],
}
RESULTS = {"cat": "a cat sits on the mat", 7: "A dog's running on the beach"}
CANDIDATES = [tokenize(RESULTS[image]) for image in REFERENCES]
METEOR = "METEOR_no_paraphrases"  # these tests run without the table
METRICS = ["Bleu_1", "Bleu_2", "Bleu_3", "Bleu_4", METEOR, "ROUGE_L", "CIDEr", "CIDEr_plain"]
CLASSES = {
    **{METEOR: Meteor, "ROUGE_L": RougeL},
    "CIDEr": lambda references: CiderD(ReferenceNgrams(references)),
    "CIDEr_plain": lambda references: Cider(ReferenceNgrams(references)),
}


def tokenised(references):
    return [[tokenize(caption) for caption in captions] for captions in references.values()]


@pytest.fixture
def scores():
    return Scorer(REFERENCES).score(RESULTS)


def test_raw_captions_are_tokenised_and_matched_by_image(scores):
    expected = dict(zip(METRICS[:4], Bleu(tokenised(REFERENCES)).score(CANDIDATES), strict=True))
    for name, metric in CLASSES.items():
        expected[name] = metric(tokenised(REFERENCES)).score(CANDIDATES)[0]
    assert list(scores.metrics) == METRICS
    assert scores.metrics == pytest.approx(expected, abs=1e-12)


def test_each_image_has_its_own_score_in_every_metric(scores):
    for name, metric in CLASSES.items():
        _, each = metric(tokenised(REFERENCES)).score(CANDIDATES)
        assert scores.per_image[name] == pytest.approx(
            dict(zip(REFERENCES, each, strict=True)), abs=1e-12
        )
    for image, words in zip(REFERENCES, CANDIDATES, strict=True):
        *_, alone = Bleu(tokenised({image: REFERENCES[image]})).score([words])
        assert scores.per_image["Bleu_4"][image] == pytest.approx(alone)


def test_intervals_are_deterministic_and_contain_the_scores(random_captions):
    references, candidates = random_captions(60, shortest=3)
    scorer = Scorer(
        {i: [" ".join(words) for words in captions] for i, captions in enumerate(references)}
    )
    results = {i: " ".join(words) for i, words in enumerate(candidates)}
    scores = scorer.score(results)
    assert scorer.score(results).intervals == scores.intervals
    for name, (low, high) in scores.intervals.items():
        assert low < scores.metrics[name] < high


def test_one_image_has_intervals_without_width():
    scores = Scorer({7: REFERENCES[7]}).score({7: "a dog runs"})
    for name, bounds in scores.intervals.items():
        assert bounds == pytest.approx((scores.metrics[name],) * 2)


def test_diversity_is_also_measured_on_the_first_reference_of_each_image(scores):
    assert scores.diversity == measure_diversity(CANDIDATES)
    assert scores.reference_diversity == measure_diversity(
        [captions[0] for captions in tokenised(REFERENCES)]
    )


def test_unseen_captions_are_those_whose_tokens_are_not_in_training():
    diversity = (
        Scorer(REFERENCES, training_captions=["A dog 's running on the beach!", "a bird"])
        .score(RESULTS)
        .diversity
    )
    assert diversity.unseen == 1 / 2


def test_json_has_metrics_with_cocos_names_intervals_diversity_and_signature(scores):
    values = json.loads(json.dumps(scores.as_dict()))
    assert {name: values[name] for name in METRICS} == scores.metrics
    assert values.keys() - METRICS == {
        *("intervals", "diversity", "people", "signature", "warnings")
    }
    assert {name: tuple(bounds) for name, bounds in values["intervals"].items()} == scores.intervals
    assert values["people"]["unseen"] is None


def test_the_table_has_metrics_times_100_with_intervals_then_diversity_then_the_signature():
    scores = Scorer(REFERENCES, training_captions=[]).score(
        {7: "A dog runs on the beach.", "cat": "A cat sits on a mat."}
    )
    (_, *metrics), diversity, signature = (
        part.split("\n") for part in scores.table().split("\n\n")
    )
    labels = [METRIC_LABELS[metric] for metric in METRICS]
    assert [row[: len(label)] for row, label in zip(metrics, labels, strict=True)] == labels
    assert metrics[0].split() == ["BLEU-1", "100.00", "100.00", "to", "100.00"]
    assert diversity[-1].split() == ["not", "seen", "in", "training", "100.0%", "100.0%"]
    *warnings, line = signature
    assert line == scores.signature
    assert warnings == [f"warning: {warning}" for warning in scores.warnings]


def warnings_of(images):
    references = {image: ["a dog"] for image in range(images)}
    return Scorer(references).score(dict.fromkeys(references, "a dog")).warnings


def test_cider_of_few_images_and_meteor_without_its_table_warn():
    cider, meteor = warnings_of(29)
    assert cider.startswith("CIDEr of 29 images means little")
    assert "all are 0" not in cider
    assert meteor.startswith("METEOR without its paraphrase table is lower")
    assert warnings_of(30) == [meteor]


def test_all_weights_of_cider_are_zero_with_one_image_and_the_warning_says_so():
    scores = Scorer({1: ["a red dog runs"]}).score({1: "a red dog runs"})
    assert (scores.metrics["CIDEr"], scores.metrics["CIDEr_plain"]) == (0, 0)
    assert scores.warnings[0].startswith("CIDEr of 1 image means nothing")
    assert "with one image all are 0" in scores.warnings[0]


def test_the_warning_says_how_to_have_meteors_table(monkeypatch):
    assert warnings_of(30)[0].endswith(": unset the variable CAPTIONER_METEOR, which is 'off'")
    monkeypatch.delenv("CAPTIONER_METEOR")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)  # it is not installed
    assert "pip install pycocoevalcap" in warnings_of(30)[0]


def test_an_empty_caption_is_scored():
    metrics = Scorer(REFERENCES).score({7: "", "cat": "?!"}).metrics
    assert metrics == dict.fromkeys(METRICS, 0)


def test_missing_images_are_counted_and_the_first_are_named():
    scorer = Scorer({image: ["a dog"] for image in range(10)})
    with pytest.raises(
        UsageError, match=r"no caption for 9 images \(1, 2, 3, 4, 5, \.\.\.\): caption them too"
    ):
        scorer.score({0: "a dog"})


@pytest.mark.parametrize("references", [{}, {1: ["a dog"], 2: []}])
def test_images_without_references_are_refused(references):
    with pytest.raises(UsageError, match="reference caption"):
        Scorer(references)


class FakeSpice:
    """A substitute for a metric computed by Java: half the number of words."""

    def __init__(self, references):
        pass

    def statistics(self, candidates):
        return [(len(words) / 2,) for words in candidates]


def test_metrics_of_java_are_scored_beside_the_others_and_signed(monkeypatch):
    monkeypatch.setitem(JAVA_METRICS, "SPICE", FakeSpice)
    scores = Scorer(REFERENCES, java=["SPICE"]).score({7: "a dog", "cat": "a cat sits on"})
    plain = Scorer(REFERENCES).score({7: "a dog", "cat": "a cat sits on"})
    assert scores.metrics == {**plain.metrics, "SPICE": 1.5}
    assert scores.per_image["SPICE"] == {7: 1.0, "cat": 2.0}
    assert scores.intervals["SPICE"] == (1.0, 2.0)
    assert "|SPICE:java-1.0|" in scores.signature
    assert "SPICE" not in plain.signature
