"""`captioner evaluate` scores the captions of the annotated images, and stores the scores."""

import json
import os
from threading import Thread

import pytest

from captioner import Captioner, UsageError, evaluate
from captioner.config.schema import ConfidenceConfig
from captioner.data.datasets import load_references
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
    """A results file with one person's caption of each image."""
    write_results(
        tmp_path / "results.json", {image: captions[1] for image, captions in references.items()}
    )
    return tmp_path / "results.json"


@pytest.fixture
def score(run, annotations, results):
    """Score the results file with further options."""
    return lambda *options: run(
        "evaluate", "--annotations", annotations, "--results", results, *options
    )


@pytest.fixture
def caption(run, annotations, shapes):
    """Caption and score the dev images with further options."""

    def call(model, *options, annotations=annotations, images=shapes / "dev"):
        asked = ["--annotations", annotations, "--images", images, "--model", model]
        return run("evaluate", *asked, "--device", "cpu", "--json", *options)

    return call


def as_json(scores):
    return json.loads(json.dumps(scores.as_dict()))


def test_the_printed_scores_are_stored_beside_the_results(score, references, results):
    code, out, _ = score("--json")
    printed = json.loads(out)
    assert code == 0
    assert printed == as_json(Scorer(references).score(read_results(results)))
    assert json.loads((results.parent / "scores.json").read_text()) == {"results.json": printed}
    assert printed["signature"] in score()[1]


def test_the_library_function_returns_the_same_scores(score, annotations, results):
    printed = json.loads(score("--json")[1])
    assert as_json(evaluate(annotations, results=results)) == printed
    assert as_json(evaluate(annotations, results=read_results(results))) == printed


def test_the_library_function_captions_with_a_model_as_the_command_does(
    caption, annotations, shapes, tiny_model
):
    printed = json.loads(caption(tiny_model, "--beam", 2)[1])
    asked = {"images": shapes / "dev", "decoding": {"beam": 2}}
    scores = evaluate(annotations, model=tiny_model, device="cpu", **asked)
    assert as_json(scores) == printed
    loaded = Captioner.from_pretrained(tiny_model, device="cpu")
    assert as_json(evaluate(annotations, model=loaded, **asked)) == printed


def test_results_and_a_model_are_not_evaluated_together(annotations, results, tiny_model):
    with pytest.raises(UsageError, match="leave out either results or model"):
        evaluate(annotations, results=results, model=tiny_model)


def test_captions_unseen_in_training_are_counted(score, annotations):
    _, out, _ = score("--seen", annotations, "--json")
    assert json.loads(out)["diversity"]["unseen"] == 0


def test_missing_images_are_refused_unless_a_subset_is_allowed(score, references, results):
    captions = read_results(results)
    captions.popitem()
    write_results(results, captions)
    code, _, err = score()
    assert code == 2
    assert "no caption for 1 image " in err
    assert "--allow-partial" in err
    code, out, err = score("--allow-partial", "--json")
    captioned = {image: references[image] for image in captions}
    assert json.loads(out) == as_json(Scorer(captioned, subset_of=len(references)).score(captions))
    assert f"1 of {len(references)} images have no caption and are not scored" in " ".join(
        err.split()
    )


def test_scores_that_cannot_be_stored_are_printed_all_the_same(score, monkeypatch):
    def full_disk(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full_disk)
    code, out, err = score()
    assert code == 1
    assert "scores.json cannot be written: No space left" in err
    assert "CIDEr" in out


def test_a_model_writes_results_that_score_the_same_again(
    run, caption, annotations, tiny_model, tmp_path
):
    results = tmp_path / "model.json"
    code, out, _ = caption(tiny_model, "--results", results)
    assert code == 0
    printed = json.loads(out)
    again = run("evaluate", "--annotations", annotations, "--results", results, "--json")[1]
    assert json.loads(again) == printed
    assert json.loads((tmp_path / "scores.json").read_text()) == {"model.json": printed}


def test_images_that_cannot_be_read_are_named_and_the_others_scored(
    caption, shapes, tiny_model, tmp_path
):
    images = sorted((shapes / "dev").iterdir())[:3]
    for image in images[:2]:
        (tmp_path / image.name).write_bytes(image.read_bytes())
    (tmp_path / images[2].name).write_bytes(b"")
    annotations = tmp_path / "captions.jsonl"
    lines = [json.dumps({"image": image.name, "captions": ["a red circle"]}) for image in images]
    annotations.write_text("\n".join(lines))
    code, out, err = caption(tiny_model, annotations=annotations, images=tmp_path)
    assert code == 3
    assert "images:2/3|" in json.loads(out)["signature"]
    assert images[2].name in err


@pytest.mark.parametrize("name", ["scores.json", "results.json"])
def test_nothing_is_captioned_before_the_scores_can_be_stored(caption, tmp_path, name):
    (tmp_path / "scores.json").write_text('{"results.json"')
    code, out, err = caption(tmp_path / "no model", "--results", tmp_path / name)
    assert (code, out) == (2, "")
    assert "scores.json: " in err


def test_the_report_holds_scores_images_and_references(caption, references, tiny_model, tmp_path):
    page = tmp_path / "report.html"
    _, out, _ = caption(tiny_model, "--report", page, "--explain")
    text, printed = page.read_text(), json.loads(out)
    assert printed["signature"] in text
    assert f'["BLEU-1",{round(100 * printed["Bleu_1"], 3)},' in text
    for captions in references.values():
        assert all(json.dumps(caption) in text for caption in captions)


@pytest.mark.parametrize(
    "options",
    [["--report", "report.pdf"], ["--report", "nowhere/report.html"], ["--explain"]],
    ids=" ".join,
)
def test_what_a_report_needs_is_checked_before_anything_is_done(caption, tmp_path, options):
    code, out, err = caption(tmp_path / "no model", *options)
    assert (code, out) == (2, "")
    assert "report" in err


@pytest.fixture
def confident(tiny_model, tmp_path):
    """The tiny model, calibrated, and its confidences of the dev images."""
    captioner = Captioner.from_pretrained(tiny_model, device="cpu")
    fitted = ConfidenceConfig(temperature=2.0, error=0.1, images=8)
    config = captioner.config.model_copy(update={"confidence": fitted})
    folder = tmp_path / "confident"
    Captioner(captioner.models, captioner.vocabulary, config, device="cpu").save_pretrained(folder)
    return folder


def test_captions_of_too_little_confidence_are_left_out_and_signed_as_a_subset(
    caption, shapes, confident
):
    captions = Captioner.from_pretrained(confident, device="cpu").caption(
        sorted((shapes / "dev").iterdir())
    )
    _, _, low, high, *_ = sorted(caption.confidence for caption in captions)
    code, out, _ = caption(confident, "--min-confidence", (low + high) / 2)
    assert code == 0
    assert "images:5/8|" in json.loads(out)["signature"]


def test_if_no_caption_is_confident_the_option_to_lower_is_named(caption, confident):
    code, out, err = caption(confident, "--min-confidence", 1)
    assert (code, out) == (1, "")
    assert "every caption has a confidence below --min-confidence: lower it" in err


def test_a_missing_requirement_of_a_java_metric_is_an_error_before_any_work(
    caption, tmp_path, monkeypatch
):
    monkeypatch.setenv("PATH", str(tmp_path))
    code, out, err = caption(tmp_path / "no model", "--java", "METEOR_java")
    assert (code, out) == (2, "")
    assert "METEOR needs" in err


def test_an_unknown_metric_of_java_is_refused_with_the_choices(score):
    code, _, err = score("--java", "ROUGE")
    assert code == 2
    assert "'ROUGE' is not one of METEOR_java, SPICE" in err


def test_results_of_the_command_caption_are_scored_by_their_paths(
    run, score, shapes, tiny_model, annotations, caption, tmp_path
):
    said, own = tmp_path / "said.json", tmp_path / "own.json"
    options = ["--model", tiny_model, "--device", "cpu"]
    assert run("caption", shapes / "dev", *options, "--output", said)[0] == 0
    assert all(isinstance(image, str) for image in read_results(said))
    code, out, _ = run("evaluate", "--annotations", annotations, "--results", said, "--json")
    assert code == 0
    assert json.loads(out) == json.loads(caption(tiny_model, "--results", own)[1])
    # and what `evaluate` wrote is replaced by `caption`, as results of the same kind
    assert run("caption", shapes / "dev", *options, "--output", own)[0] == 0


def test_the_best_of_several_captions_is_scored_and_the_others_are_kept(
    run, annotations, caption, tiny_model, tmp_path
):
    several = tmp_path / "several.json"
    _, out, _ = caption(tiny_model, "--results", several, "--num-captions", 3)
    assert {len(entry["captions"]) for entry in json.loads(several.read_text())} == {3}
    code, again, _ = run("evaluate", "--annotations", annotations, "--results", several, "--json")
    assert code == 0
    assert json.loads(again) == json.loads(out)


@pytest.fixture
def uncaptioned(annotations, tmp_path):
    """Annotations whose first image has no captions, and its id."""
    content = json.loads(annotations.read_text())
    image = content["images"][0]["id"]
    content["annotations"] = [row for row in content["annotations"] if row["image_id"] != image]
    path = tmp_path / "captions.json"
    path.write_text(json.dumps(content))
    return path, image


def test_results_of_an_image_without_references_need_allow_partial(run, uncaptioned, results):
    annotations, image = uncaptioned
    command = ["evaluate", "--annotations", annotations, "--results", results, "--json"]
    code, out, err = run(*command)
    assert (code, out) == (2, "")
    assert f"1 image ({image}) of the annotations without a caption there: leave these out" in err
    assert "--allow-partial" in err
    code, out, err = run(*command, "--allow-partial")
    assert code == 0
    assert f"left out: 1 image ({image})" in err
    assert "images:7|" in json.loads(out)["signature"]


def test_existing_results_are_not_replaced_where_they_could_be_meant_to_be_scored(
    run, annotations, shapes, results, tiny_model
):
    before = results.read_bytes()
    command = ["evaluate", "--annotations", annotations, "--images", shapes / "dev"]
    code, out, err = run(*command, "--results", results)
    assert (code, out) == (2, "")
    assert "exists already: to score it, leave out --images; to replace it, name the model" in err
    assert results.read_bytes() == before
    asked = ["--results", results, "--model", tiny_model, "--device", "cpu"]
    assert run(*command, *asked)[0] == 0
    assert results.read_bytes() != before


def test_results_from_a_pipe_are_scored_and_no_scores_file_is_written(
    run, annotations, results, score, tmp_path
):
    expected = score("--json")[1]
    (tmp_path / "scores.json").unlink()
    os.mkfifo(tmp_path / "pipe")
    writer = Thread(target=(tmp_path / "pipe").write_bytes, args=[results.read_bytes()])
    writer.start()
    named = ["--results", tmp_path / "pipe", "--json"]
    assert run("evaluate", "--annotations", annotations, *named) == (0, expected, "")
    writer.join()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["pipe", "results.json"]


def test_a_report_replaces_a_report_and_no_other_page(caption, tiny_model, tmp_path):
    page = tmp_path / "page.html"
    page.write_text("<!doctype html><title>My own page</title>")
    code, out, err = caption(tiny_model, "--report", page)
    assert (code, out) == (2, "")
    assert "page.html exists and is not a report, or was written by an older version: " in err
    assert "My own page" in page.read_text()
    page.unlink()
    for _ in range(2):
        assert caption(tiny_model, "--report", page)[0] == 0
