"""Signatures differ if scores are not comparable."""

from captioner.metrics.signature import build_signature, hash_split
from captioner.text.tokenizer import TOKENIZER_VERSION

REFERENCES = {7: ["a dog", "the dog"], "cat": ["a cat"]}


def parts(references, of=None, stages="exact"):
    line = build_signature(references, set_size=of or len(references), meteor_stages=stages)
    assert "\n" not in line
    return dict(part.split(":", 1) for part in line.split("|"))


def test_it_names_tokeniser_metrics_sizes_and_split():
    signature = parts(REFERENCES, stages="exact+stem+synonym+paraphrase")
    assert signature["tokenizer"] == TOKENIZER_VERSION
    assert signature["split"] == hash_split(REFERENCES)[:12]
    assert {"Bleu", "METEOR", "ROUGE_L", "CIDEr-D", "captioner"} < signature.keys()
    assert (signature["images"], signature["refs"]) == ("2", "1-2")
    assert parts({1: ["a", "b"], 2: ["c", "d"]})["refs"] == "2"


def test_it_names_a_subset_and_the_matchers_of_meteor():
    assert parts(REFERENCES, of=1000)["images"] == "2/1000"
    partial = parts(REFERENCES, stages="exact+stem")
    assert "METEOR" not in partial
    assert partial["METEOR_no_paraphrases"].endswith("(exact+stem)")


def test_the_split_is_the_same_in_any_order():
    assert hash_split({"cat": ["a cat"], 7: ["the dog", "a dog"]}) == hash_split(REFERENCES)


def test_the_split_differs_with_any_image_or_caption():
    others = [
        {7: ["a dog", "the dog"]},
        {"7": ["a dog", "the dog"], "cat": ["a cat"]},
        {7: ["a dog"], "cat": ["a cat", "the dog"]},
        {7: ["a dog", "the dog"], "cat": ["A cat"]},
    ]
    assert len({hash_split(references) for references in [REFERENCES, *others]}) == 5
