"""The model card: filled in from the run and its evaluation, and nothing is made up."""

import json
import shutil

import pytest
import yaml

from captioner.errors import UsageError
from captioner.metrics.scorer import Scorer
from captioner.models.card import build_card
from captioner.models.card_facts import read_facts
from captioner.models.folder import BUNDLED

CAPTIONS = {1: "a dog runs", 2: "a dog runs", 3: "a cat sits on a mat"}
REFERENCES = {1: ["a dog runs fast"], 2: ["two dogs run"], 3: ["a cat sits on the mat"]}


@pytest.fixture(scope="module")
def scores():
    return Scorer(REFERENCES).score(CAPTIONS).as_dict()


@pytest.fixture
def best(tmp_path):
    """The model of a run that has its sizes, without weights, which a card does not need."""
    folder = tmp_path / "run" / "best"
    folder.mkdir(parents=True)
    for name in ("config.json", "vocab.json"):
        shutil.copy(BUNDLED / name, folder)
    source = {"name": "flickr8k", "examples": 5999, "captions": 29995, "repeat": 2}
    hub = {"name": "dogs", "dataset": "kim/dog-photos", "examples": 7, "captions": 7}
    dev = {"name": "flickr8k", "examples": 1000, "captions": 5000, "repeat": 1}
    splits = {"train": [source, hub], "dev": [dev]}
    (folder.parent / "splits.json").write_text(json.dumps(splits))
    return folder


def card(folder, **options):
    """The header of a card as values, and its text."""
    text = build_card(read_facts(folder, "kim/dogs", **options))
    start, header, body = text.split("---\n", 2)
    assert start == ""
    return yaml.safe_load(header), body


def test_a_card_without_license_and_scores_says_so_and_claims_nothing(best):
    header, body = card(best)
    assert "license" not in header
    assert "model-index" not in header
    assert "Its publisher states none" in body
    assert "It was not evaluated with `captioner evaluate`." in body
    assert "It was not evaluated, so this is not known." in body


def test_the_header_has_what_the_hub_reads(best, scores, tmp_path):
    (best.parent / "scores.json").write_text(json.dumps({"val2017.json": scores}))
    header, _ = card(best, license="mit", data_sets=["nlphuji/flickr30k"])
    assert header["license"] == "mit"
    assert header["library_name"] == "captioner"
    assert header["pipeline_tag"] == "image-to-text"
    assert header["tags"] == ["captioner", "image-captioning", "efficientnet_lite2", "lstm"]
    assert header["datasets"] == ["nlphuji/flickr30k", "kim/dog-photos"]
    (result,) = header["model-index"][0]["results"]
    assert result["dataset"] == {"name": "val2017", "type": "val2017"}
    metrics = {each["name"]: each["value"] for each in result["metrics"]}
    assert metrics["CIDEr-D"] == round(scores["CIDEr"], 4)
    # METEOR without its table has no name on the hub
    assert {each["type"] for each in result["metrics"]} == {"bleu", "rouge", "cider"}


def test_the_library_of_the_hub_accepts_the_header(best, scores, tmp_path):
    hub = pytest.importorskip("huggingface_hub")
    (best / "scores.json").write_text(json.dumps({"val.json": scores}))
    text = build_card(read_facts(best, "kim/dogs", license="mit"))
    data = hub.ModelCard(text).data
    assert data.eval_results[0].dataset_name == "val"
    assert data.license == "mit"


def test_scores_are_shown_with_intervals_and_signature(best, scores, tmp_path):
    file = tmp_path / "printed.json"
    file.write_text(json.dumps(scores))  # as `captioner evaluate --json` prints them
    _, body = card(best, scores=file)
    low, high = scores["intervals"]["Bleu_4"]
    assert (
        f"| BLEU-4 | {100 * scores['Bleu_4']:.2f} | {100 * low:.2f} to {100 * high:.2f} |" in body
    )
    assert scores["signature"] in body
    assert "not evaluated" not in body


def test_what_it_is_bad_at_is_what_the_evaluation_counts(best, scores):
    (best / "scores.json").write_text(json.dumps({"val.json": scores}))
    _, body = card(best)
    # by hand: a, dog, runs, cat, sits, on, mat; the references have fast, two, dogs, run, the too
    assert (
        "Few words (val): 7 different ones; the first references, written by people, have 12."
        in body
    )
    assert "The same captions (val): 66.7% are distinct; of the references, 100.0%." in body
    assert "CIDEr of 3 images means little" in body
    assert "(expected calibration error," in body


def test_the_sizes_of_the_data_are_those_of_the_run(best):
    _, body = card(best)
    assert "| train | flickr8k, 2 times an epoch | 5,999 | 29,995 |" in body
    assert "| train | `kim/dog-photos` | 7 | 7 |" in body
    assert "| dev | flickr8k | 1,000 | 5,000 |" in body
    (best.parent / "splits.json").unlink()
    assert "Not recorded with this model" in card(best)[1]


def test_a_written_card_is_kept_and_its_sections_win(best):
    (best / "README.md").write_text(
        "---\nlicense: cc-by-4.0\nlanguage: en\nmodel-index: [old]\n---\n\nMy dogs.\n\n"
        "## Training data\n\nMine.\n\n## What it is good and bad at\n\nCats.\n"
    )
    header, body = card(best)
    assert (header["license"], header["language"]) == ("cc-by-4.0", "en")
    assert "model-index" not in header  # perhaps of other weights
    assert body.count("## Training data") == 1
    assert "flickr8k" not in body
    assert "bad at\n\nCats." in body
    assert "so this is not known" not in body


def test_a_second_card_replaces_what_the_first_has_generated(best, scores):
    (best / "README.md").write_text("My dogs.\n")
    first = build_card(read_facts(best, "kim/dogs"))
    (best / "README.md").write_text(first + "\nMore of mine.\n")
    (best / "scores.json").write_text(json.dumps({"val.json": scores}))
    second = build_card(read_facts(best, "kim/dogs"))
    assert second.count("# dogs") == second.count("My dogs.") == second.count("More of mine.") == 1
    assert "not evaluated" not in second


def test_the_page_of_an_export_is_no_card(best):
    (best / "README.md").write_text("# Captions with ONNX graphs\n\nUse them so.\n")
    assert "Use them so." not in card(best)[1]


def test_a_broken_header_or_file_of_scores_is_named(best, tmp_path):
    with pytest.raises(UsageError, match=r"none.json: no such file of scores"):
        card(best, scores=tmp_path / "none.json")
    (tmp_path / "other.json").write_text('{"a": {}}')
    with pytest.raises(UsageError, match=r"other.json: holds no scores"):
        card(best, scores=tmp_path / "other.json")
    (best / "README.md").write_text("---\na: [\n---\nText\n")
    with pytest.raises(UsageError, match=r"README.md: its header is no YAML"):
        card(best)


def test_the_usage_names_the_model_and_fits_what_it_reads(best):
    _, body = card(best)
    assert "captioner caption --model kim/dogs photo.jpg" in body
    assert 'Captioner.from_pretrained("kim/dogs").caption("photo.jpg").text' in body
    config = json.loads((best / "config.json").read_text())
    config["encoder"], config["confidence"] = {"kind": "text"}, None
    config["decoding"] |= {"min_confidence": 0.0}
    (best / "config.json").write_text(json.dumps(config))
    header, body = card(best)
    assert header["pipeline_tag"] == "translation"
    assert "captioner translate --model kim/dogs text.txt" in body


def test_a_trunk_of_timm_needs_timm_unless_there_are_graphs(best):
    assert 'pip install "captioner[hub]"' in card(best)[1]
    config = json.loads((best / "config.json").read_text())
    config["encoder"]["trunk"] = "timm/resnet18.a1_in1k"
    (best / "config.json").write_text(json.dumps(config))
    assert 'pip install "captioner[hub,timm]"' in card(best)[1]
    (best / "graphs.json").write_text("{}")
    assert 'pip install "captioner[hub]"' in card(best)[1]


@pytest.mark.parametrize(
    ("settings", "started"),
    [
        ({"encoder": {"trunk": "resnet18", "weights": "none"}}, "random weights."),
        (
            {"encoder": {"trunk": "resnet18", "weights": "default"}},
            "the pretrained weights of `resnet18`, and a random decoder.",
        ),
        ({"encoder": {"weights": "/home/kim/r18.pth"}}, "the CNN in `r18.pth`, and a random"),
        ({"init": "bundled"}, "the bundled model of captioner."),
        ({"init": "runs/first/best"}, "an earlier model."),
        ({"init": "kim/cats@v1"}, "the model `kim/cats@v1`."),
        ({"encoder": {"kind": "text"}}, None),
    ],
)
def test_the_card_says_which_weights_training_started_from(best, settings, started):
    (best.parent / "config.yaml").write_text(yaml.safe_dump(settings))
    _, body = card(best)
    if started is None:
        assert "Training started" not in body
    else:
        assert f"Training started from {started}" in body
        assert "/home" not in body
