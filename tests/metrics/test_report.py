"""A report gives COCO's figures and says how they were made."""

import pytest

from captioner.errors import UsageError
from captioner.metrics.bleu import Bleu
from captioner.metrics.cider import CiderD
from captioner.metrics.report import Scorer, Scores
from captioner.text.tokenizer import TOKENIZER_VERSION, tokenize

REFERENCES = {7: ["A dog runs on the beach.", "The dog is running!"], "cat": ["A cat sits on a mat."]}
RESULTS = {"cat": "a cat sits on the mat", 7: "A dog's running on the beach"}


def test_raw_captions_are_tokenised_and_matched_by_image():
    scores = Scorer(REFERENCES).score(RESULTS)
    references = [[tokenize(caption) for caption in captions] for captions in REFERENCES.values()]
    candidates = [tokenize(RESULTS[image]) for image in REFERENCES]
    assert scores.bleu == Bleu(references).score(candidates)
    assert scores.cider == CiderD(references).score(candidates)[0]
    assert (scores.images, scores.references) == (2, 3)


def test_the_figures_have_cocos_names():
    scores = Scores(bleu=(0.5, 0.4, 0.3, 0.25), cider=0.39, images=2, references=10)
    figures = {"Bleu_1": 0.5, "Bleu_2": 0.4, "Bleu_3": 0.3, "Bleu_4": 0.25, "CIDEr": 0.39}
    assert scores.figures == figures
    assert scores.as_dict() == figures | {"signature": scores.signature}


def test_the_signature_names_tokeniser_metrics_and_sizes():
    signature = Scores(bleu=(0, 0, 0, 0), cider=0, images=12, references=61).signature
    assert "\n" not in signature
    for part in ("images:12", "references:61", f"tokenizer:{TOKENIZER_VERSION}", "Bleu:", "CIDEr-D:", "captioner:"):
        assert part in signature.replace("|", " |")


def test_the_table_prints_figures_times_a_hundred_and_the_signature():
    scores = Scores(bleu=(0.5, 0.4, 0.3, 0.25), cider=1.056, images=2, references=10)
    *rows, last = scores.table().splitlines()
    assert [row.split() for row in rows] == [
        ["Bleu_1", "50.00"], ["Bleu_2", "40.00"], ["Bleu_3", "30.00"], ["Bleu_4", "25.00"], ["CIDEr", "105.60"]
    ]  # fmt: skip
    assert len({len(row) for row in rows}) == 1
    assert last == scores.signature


def test_an_empty_caption_is_scored():
    assert Scorer(REFERENCES).score({7: "", "cat": "?!"}).bleu == (0, 0, 0, 0)


def test_missing_images_are_counted_and_the_first_are_named():
    scorer = Scorer({image: ["a dog"] for image in range(10)})
    with pytest.raises(UsageError, match=r"no caption for 9 images \(1, 2, 3, 4, 5, \.\.\.\).*; caption exactly"):
        scorer.score({0: "a dog"})


def test_unknown_images_are_counted_and_named():
    with pytest.raises(UsageError, match=r"2 images \(8, 'bird'\) not in the annotations; "):
        Scorer(REFERENCES).score({**RESULTS, 8: "a bird", "bird": "a bird"})


def test_ids_that_are_text_on_one_side_only_are_explained():
    with pytest.raises(UsageError, match="numbers on one side and text on the other"):
        Scorer({42: ["a dog"]}).score({"42": "a dog"})


@pytest.mark.parametrize("references", [{}, {1: ["a dog"], 2: []}])
def test_images_without_references_are_refused(references):
    with pytest.raises(UsageError, match="reference caption"):
        Scorer(references)
