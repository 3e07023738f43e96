"""Evaluating scores what was said of the annotated images, and notes it beside the results."""

import json

import pytest

from captioner import Captioner
from captioner.cli.evaluate import evaluate_model, score_results
from captioner.config.schema import ConfidenceConfig
from captioner.data.datasets import load_references
from captioner.errors import CaptionerError, UsageError
from captioner.metrics.scorer import Scorer
from captioner.results.files import read_results, write_results


@pytest.fixture
def annotations(shapes):
    return shapes / "captions_dev.json"


@pytest.fixture
def references(annotations):
    return load_references(annotations)


@pytest.fixture
def results(tmp_path, references):
    """A results file that says of each image what one person did."""
    write_results(
        tmp_path / "results.json", {image: captions[1] for image, captions in references.items()}
    )
    return tmp_path / "results.json"


def as_json(scores):
    return json.loads(json.dumps(scores.as_dict()))


def test_what_is_printed_is_noted_beside_the_results(annotations, references, results, capsys):
    score_results(results, annotations, as_json=True)
    printed = json.loads(capsys.readouterr().out)
    assert printed == as_json(Scorer(references).score(read_results(results)))
    assert json.loads((results.parent / "scores.json").read_text()) == {"results.json": printed}
    score_results(results, annotations)
    assert printed["signature"] in capsys.readouterr().out


def test_training_captions_tell_which_are_new(annotations, results, capsys):
    score_results(results, annotations, seen=annotations, as_json=True)
    assert json.loads(capsys.readouterr().out)["diversity"]["unseen"] == 0


def test_missing_images_are_refused_unless_a_subset_is_allowed(
    annotations, references, results, capsys
):
    captions = read_results(results)
    captions.popitem()
    write_results(results, captions)
    with pytest.raises(UsageError, match=r"no caption for 1 image "):
        score_results(results, annotations)
    score_results(results, annotations, allow_partial=True, as_json=True)
    out, err = capsys.readouterr()
    there = {image: references[image] for image in captions}
    assert json.loads(out) == as_json(Scorer(there, subset_of=len(references)).score(captions))
    assert f"1 of {len(references)} images have no caption and are not scored" in " ".join(
        err.split()
    )


def test_scores_that_cannot_be_noted_are_printed_all_the_same(
    annotations, results, capsys, monkeypatch
):
    def full_disk(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full_disk)
    with pytest.raises(CaptionerError, match=r"scores\.json cannot be written: No space left"):
        score_results(results, annotations)
    assert "CIDEr" in capsys.readouterr().out


def test_a_model_writes_results_that_score_the_same_again(
    annotations, shapes, tiny_model, tmp_path, capsys
):
    results = tmp_path / "model.json"
    failed = evaluate_model(
        [tiny_model],
        annotations,
        images=shapes / "dev",
        results=results,
        device="cpu",
        as_json=True,
    )
    assert failed == 0
    printed = json.loads(capsys.readouterr().out)
    score_results(results, annotations, as_json=True)
    assert json.loads(capsys.readouterr().out) == printed
    assert json.loads((tmp_path / "scores.json").read_text()) == {"model.json": printed}


def test_images_that_cannot_be_read_are_named_and_the_others_scored(
    shapes, tiny_model, tmp_path, capsys
):
    images = sorted((shapes / "dev").iterdir())[:3]
    for image in images[:2]:
        (tmp_path / image.name).write_bytes(image.read_bytes())
    (tmp_path / images[2].name).write_bytes(b"")
    annotations = tmp_path / "captions.jsonl"
    lines = [json.dumps({"image": image.name, "captions": ["a red circle"]}) for image in images]
    annotations.write_text("\n".join(lines))
    assert (
        evaluate_model([tiny_model], annotations, images=tmp_path, device="cpu", as_json=True) == 1
    )
    out, err = capsys.readouterr()
    assert "images:2/3|" in json.loads(out)["signature"]
    assert images[2].name in err


@pytest.mark.parametrize("name", ["scores.json", "results.json"])
def test_a_model_says_nothing_before_its_scores_can_be_noted(annotations, shapes, tmp_path, name):
    (tmp_path / "scores.json").write_text('{"results.json"')
    with pytest.raises(UsageError, match=r"scores\.json: "):
        evaluate_model(
            [tmp_path / "no model"], annotations, images=shapes / "dev", results=tmp_path / name
        )


def test_the_report_holds_scores_images_and_references(
    annotations, references, shapes, tiny_model, tmp_path, capsys
):
    page = tmp_path / "report.html"
    evaluate_model(
        [tiny_model],
        annotations,
        images=shapes / "dev",
        report=page,
        explain=True,
        device="cpu",
        as_json=True,
    )
    text, printed = page.read_text(), json.loads(capsys.readouterr().out)
    assert printed["signature"] in text
    assert f'["BLEU-1",{round(100 * printed["Bleu_1"], 3)},' in text
    for captions in references.values():
        assert all(json.dumps(caption) in text for caption in captions)


def test_what_a_report_needs_is_checked_before_anything_is_done(annotations, shapes, tmp_path):
    for wrong in (
        {"report": tmp_path / "report.pdf"},
        {"report": tmp_path / "nowhere" / "report.html"},
        {"explain": True},
    ):
        with pytest.raises(UsageError, match=r"report"):
            evaluate_model([tmp_path / "no model"], annotations, images=shapes / "dev", **wrong)


def test_captions_of_too_little_confidence_are_left_out_and_signed_as_a_subset(
    annotations, shapes, tiny_model, tmp_path, capsys
):
    captioner = Captioner.from_pretrained(tiny_model, device="cpu")
    sure = ConfidenceConfig(temperature=2.0, error=0.1, images=8)
    config = captioner.config.model_copy(update={"confidence": sure})
    Captioner(captioner.models, captioner.vocabulary, config, device="cpu").save_pretrained(
        tmp_path / "sure"
    )
    captions = Captioner.from_pretrained(tmp_path / "sure", device="cpu").caption(
        sorted((shapes / "dev").iterdir())
    )
    _, _, low, high, *_ = sorted(caption.confidence for caption in captions)
    asked = {
        "decoding": {"min_confidence": (low + high) / 2},
        "images": shapes / "dev",
        "device": "cpu",
    }
    assert evaluate_model([tmp_path / "sure"], annotations, as_json=True, **asked) == 0
    assert "images:5/8|" in json.loads(capsys.readouterr().out)["signature"]


def test_what_a_metric_of_java_lacks_is_told_before_anything_is_done(
    annotations, shapes, tmp_path, monkeypatch
):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UsageError, match="METEOR needs"):
        evaluate_model(
            [tmp_path / "no model"], annotations, images=shapes / "dev", java=["METEOR_java"]
        )
