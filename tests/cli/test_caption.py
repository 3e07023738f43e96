"""`captioner caption`: its output, results files and reports, with every decoding setting."""

import json
from itertools import pairwise

import pytest

from captioner import Captioner
from captioner.config.schema import ConfidenceConfig
from captioner.models.folder import read_config, write_config


@pytest.fixture
def caption(run, tiny_model, shapes):
    """Caption the dev images with further arguments."""

    def call(*arguments, model=tiny_model):
        return run("caption", shapes / "dev", "--model", model, "--device", "cpu", *arguments)

    return call


@pytest.fixture
def calibrated(tiny_model, tmp_path):
    """The tiny model, with a confidence."""
    folder = tmp_path / "calibrated"
    captioner = Captioner.from_pretrained(tiny_model, device="cpu")
    captioner.save_pretrained(folder)
    sure = ConfidenceConfig(temperature=2.0, error=0.1, images=8)
    write_config(folder, captioner.config.model_copy(update={"confidence": sure}))
    return folder


def test_several_captions_are_lines_of_their_own_and_a_list_in_json(caption):
    _, out, _ = caption("--num-captions", 3)
    lines = [line.split("\t") for line in out.splitlines()]
    assert len(lines) == 24
    assert len({image for image, _ in lines}) == 8
    _, out, _ = caption("--num-captions", 3, "--json")
    for number, line in enumerate(map(json.loads, out.splitlines())):
        assert [one["caption"] for one in line["captions"]] == [
            text for _, text in lines[3 * number : 3 * number + 3]
        ]
        assert line["captions"][0]["log_prob"] == line["log_prob"]


def test_paths_that_do_not_exist_are_named_and_the_rest_is_captioned(caption, tmp_path):
    missing = [tmp_path / "gone.jpg", tmp_path / "no*.png"]
    code, out, err = caption(*missing, "--output", tmp_path / "captions.json")
    assert code == 3
    assert len(out.splitlines()) == 8
    assert len(json.loads((tmp_path / "captions.json").read_text())) == 8
    assert f"captioner: {missing[0]}: no such file or folder\n" in err
    assert f"captioner: {missing[1]}: no image matches\n" in err
    assert "2 paths could not be found or listed" in err


def test_without_any_path_that_exists_nothing_is_done(run, tiny_model, tmp_path):
    missing = [tmp_path / "gone.jpg", tmp_path / "no*.png"]
    output = tmp_path / "captions.json"
    code, out, err = run("caption", *missing, "--model", tiny_model, "--output", output)
    assert (code, out) == (2, "")
    assert "gone.jpg: no such file or folder; " in err
    assert not output.exists()


@pytest.mark.parametrize(
    ("arguments", "obeyed"),
    [
        (["--require", "blue", "--require", "ring"], lambda words: {"blue", "ring"} <= set(words)),
        (["--forbid", "a", "--forbid", "red"], lambda words: not {"a", "red"} & set(words)),
        (["--prefix", "The blue ring"], lambda words: words[:3] == ["the", "blue", "ring"]),
        (["--min-length", 7, "--max-length", 9], lambda words: 7 <= len(words) <= 9),
        (["--no-repeat-ngram", 1], lambda words: len(set(words)) == len(words)),
        (["--no-double-words"], lambda words: all(one != other for one, other in pairwise(words))),
        (["--sample", "--require", "blue"], lambda words: "blue" in words),
        (["--beam", 4, "--diverse", 2, "--require", "blue"], lambda words: "blue" in words),
    ],
)
def test_every_caption_follows_the_rules(caption, arguments, obeyed):
    code, out, _ = caption(*arguments)
    assert code == 0
    assert all(obeyed(line.split("\t")[1].split()) for line in out.splitlines())


def test_a_seed_determines_the_sampled_captions(caption):
    first, again, other = (
        caption("--sample", "--temperature", 1.5, "--seed", seed)[1] for seed in (1, 1, 2)
    )
    assert first == again != other


def test_two_models_are_an_ensemble(caption, tiny_model):
    code, out, _ = caption("--model", tiny_model)
    assert code == 0
    assert out == caption()[1]


def test_a_caption_below_min_confidence_is_not_shown_and_counted(caption, calibrated, tmp_path):
    _, out, _ = caption("--json", model=calibrated)
    sure = sorted(json.loads(line)["confidence"] for line in out.splitlines())
    wanted = (sure[2] + sure[3]) / 2
    code, out, err = caption(
        "--min-confidence", wanted, "--output", tmp_path / "said.json", model=calibrated
    )
    assert code == 0
    assert sum(line.endswith("\t") for line in out.splitlines()) == 3
    assert "3 of 8 captions are not shown" in err
    assert len(json.loads((tmp_path / "said.json").read_text())) == 5
    _, out, _ = caption("--min-confidence", wanted, "--json", model=calibrated)
    assert [json.loads(line)["caption"] for line in out.splitlines()].count(None) == 3


@pytest.fixture
def doubtful(caption, calibrated):
    """The calibrated model, with a threshold that 3 of the 8 captions do not reach."""
    _, out, _ = caption("--json", model=calibrated)
    confidences = sorted(json.loads(line)["confidence"] for line in out.splitlines())
    captioner = Captioner.from_pretrained(calibrated, device="cpu")
    threshold = (confidences[2] + confidences[3]) / 2
    confidence = captioner.config.confidence.model_copy(update={"threshold": threshold})
    folder = calibrated.parent / "doubtful"
    captioner.save_pretrained(folder)
    write_config(folder, captioner.config.model_copy(update={"confidence": confidence}))
    return folder


def test_a_third_column_marks_the_captions_below_the_threshold(caption, calibrated, doubtful):
    _, unmarked, _ = caption(model=calibrated)
    _, out, _ = caption(model=doubtful)
    rows = [line.split("\t") for line in out.splitlines()]
    assert ["\t".join(row[:2]) for row in rows] == unmarked.splitlines()
    assert sorted(row[2:] for row in rows) == [[]] * 5 + [["unsure"]] * 3
    threshold = read_config(doubtful)["confidence"]["threshold"]
    _, out, _ = caption("--json", model=doubtful)
    for row, line in zip(rows, map(json.loads, out.splitlines()), strict=True):
        assert line["sure"] is (line["confidence"] >= threshold) is (row[2:] == [])


def test_json_of_a_model_without_a_threshold_does_not_say_whether_a_caption_is_sure(
    caption, calibrated
):
    assert '"sure"' not in caption("--json", model=calibrated)[1]


@pytest.mark.parametrize("sampling", [[], ["--sample", "--temperature", 0.02]])
def test_each_of_several_captions_has_its_own_mark(caption, doubtful, sampling):
    arguments = ["--num-captions", 4, *sampling]
    _, out, _ = caption(*arguments, model=doubtful)
    marks = [line.split("\t")[2:] == [] for line in out.splitlines()]
    _, out, _ = caption(*arguments, "--json", model=doubtful)
    lines = [json.loads(line) for line in out.splitlines()]
    assert [each["sure"] for line in lines for each in line["captions"]] == marks
    assert any(len({each["sure"] for each in line["captions"]}) == 2 for line in lines)


@pytest.mark.parametrize("ending", ["json", "jsonl"])
def test_results_are_the_same_bytes_with_unsure_captions(
    caption, calibrated, doubtful, tmp_path, ending
):
    files = tmp_path / f"before.{ending}", tmp_path / f"after.{ending}"
    for model, file in zip((calibrated, doubtful), files, strict=True):
        caption("--output", file, model=model)
    before, after = (file.read_bytes() for file in files)
    assert before == after
    assert b"sure" not in after


def test_a_caption_that_is_not_shown_has_no_mark(caption, doubtful):
    _, out, _ = caption("--min-confidence", 1, model=doubtful)
    assert all(line.endswith("\t") for line in out.splitlines())


def test_an_ensemble_has_no_threshold(caption, doubtful):
    _, out, _ = caption("--model", doubtful, model=doubtful)
    assert "unsure" not in out


def test_min_confidence_needs_a_calibrated_model(caption):
    code, _, err = caption("--min-confidence", 0.5)
    assert code == 2
    assert "captioner calibrate" in err


def test_the_model_folder_keeps_the_defaults_of_decoding(caption, tiny_model, calibrated):
    captioner = Captioner.from_pretrained(calibrated, device="cpu")
    decoding = captioner.config.decoding.model_copy(update={"prefix": "the red", "beam": 1})
    write_config(calibrated, captioner.config.model_copy(update={"decoding": decoding}))
    _, out, _ = caption(model=calibrated)
    assert out == caption("--prefix", "the red", "--beam", 1)[1]
    assert read_config(calibrated)["decoding"]["beam"] == 1


def test_a_report_shows_every_image_that_can_be_read(caption, shapes, tmp_path):
    page = tmp_path / "page.html"
    code, out, _ = caption("--report", page, "--num-captions", 2)
    assert code == 0
    text = page.read_text()
    lines = [line.split("\t") for line in out.splitlines()]
    assert all(json.dumps(image) in text for image, _ in lines)
    assert all(json.dumps(other) in text for _, other in lines[1::2])


def test_explaining_gives_each_word_a_heat_map_in_json(caption):
    _, out, _ = caption("--explain", "--json", "--max-length", 3)
    for line in map(json.loads, out.splitlines()):
        assert all(len(word["heat"]) == len(word["heat"][0]) == 7 for word in line["words"])
        assert line["explanation"] == "occlusion"


def test_a_model_with_attention_is_explained_by_it_in_json_and_in_a_report(
    caption, attentive_model, tmp_path
):
    page = tmp_path / "page.html"
    _, out, _ = caption(
        "--explain", "--json", "--report", page, "--max-length", 3, model=attentive_model
    )
    for line in map(json.loads, out.splitlines()):
        assert line["explanation"] == "attention"
        for word in line["words"]:
            assert sum(share for row in word["heat"] for share in row) == pytest.approx(1, abs=1e-5)
    assert page.read_text().count('"explanation":"attention"') == len(out.splitlines())


@pytest.mark.parametrize(
    ("option", "setting", "value"),
    [
        ("--length-alpha", "length_alpha", 1.5),
        ("--diversity", "diversity", 3.0),
        ("--seed", "seed", 9),
        ("--min-length", "min_length", 9),
    ],
)
def test_a_setting_of_zero_counts_as_given(caption, calibrated, option, setting, value):
    captioner = Captioner.from_pretrained(calibrated, device="cpu")
    decoding = captioner.config.decoding.model_copy(update={setting: value})
    write_config(calibrated, captioner.config.model_copy(update={"decoding": decoding}))
    others = {"--diversity": ["--diverse", 3], "--seed": ["--sample"]}.get(option, [])
    arguments = ["--num-captions", 3, *others]
    zeroed = caption(*arguments, option, 0, model=calibrated)[1]
    write_config(
        calibrated,
        captioner.config.model_copy(update={"decoding": decoding.model_copy(update={setting: 0})}),
    )
    assert zeroed == caption(*arguments, model=calibrated)[1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--temperature", 2], "--temperature has no effect without --sample: add it"),
        (["--top-k", 2], "--top-k has no effect without --sample: add it"),
        (["--sample", "--beam", 2], "--beam has no effect with --sample: leave out one"),
        (["--sample", "--diverse", 2], "--diverse has no effect with --sample: leave out one"),
        (["--diversity", 2], "--diversity has no effect without --diverse: add it"),
        (
            ["--length-norm", "none", "--length-alpha", 1],
            "--length-alpha has no effect with --length-norm none: leave out one",
        ),
    ],
)
def test_an_option_that_would_change_nothing_is_refused(caption, arguments, message):
    code, _, err = caption(*arguments)
    assert code == 2
    assert message in err


def test_a_required_word_widens_a_beam_of_one(caption):
    alone = caption("--beam", 1, "--require", "blue")[1]
    assert alone == caption("--beam", 2, "--require", "blue")[1]


def test_what_is_not_shown_is_in_no_output(caption, calibrated, tmp_path):
    page = tmp_path / "page.html"
    _, out, _ = caption("--min-confidence", 1, "--json", "--report", page, model=calibrated)
    assert all(
        line["caption"] is None and not line["words"] for line in map(json.loads, out.splitlines())
    )
    assert "0 captions" in page.read_text()


def test_a_file_that_holds_no_results_is_not_replaced(caption, tmp_path):
    other = tmp_path / "precious.json"
    other.write_text('{"annotations": []}')
    code, _, err = caption("--output", other)
    assert code == 2
    assert "is not a results file: choose another name" in err
    assert other.read_text() == '{"annotations": []}'
    assert caption("--output", tmp_path / "said.json")[0] == 0
    assert caption("--output", tmp_path / "said.json")[0] == 0


def test_diverse_groups_are_widened_for_a_required_word(caption):
    said = [
        line.split("\t")[1].split()
        for line in caption("--diverse", 3, "--require", "blue")[1].splitlines()
    ]
    assert all("blue" in words for words in said)
    assert any(words[0] != "blue" for words in said)


def test_a_report_does_not_replace_the_results(run, photo, tmp_path):
    same = tmp_path / "z.html"
    code, out, err = run("caption", photo, "--output", same, "--report", same)
    assert (code, out) == (2, "")
    assert f"--output and --report both name {same}" in err


@pytest.mark.parametrize("ending", ["json", "jsonl"])
def test_results_keep_all_captions_of_an_image(caption, tmp_path, ending):
    file = tmp_path / f"said.{ending}"
    _, out, _ = caption("--num-captions", 3, "--output", file)
    text = file.read_text()
    entries = json.loads(text) if ending == "json" else list(map(json.loads, text.splitlines()))
    printed = [line.split("\t")[1] for line in out.splitlines()]
    assert [text for entry in entries for text in entry["captions"]] == printed
    assert [entry["caption"] for entry in entries] == printed[::3]


@pytest.fixture
def image_info(shapes, tmp_path):
    """A file that lists the dev images without captions, as COCO's image_info_test2017.json."""
    images = json.loads((shapes / "captions_dev.json").read_text())["images"]
    path = tmp_path / "image_info_dev.json"
    path.write_text(json.dumps({"images": images}))
    return path, {image["file_name"]: image["id"] for image in images}


def test_a_list_of_images_names_the_results_by_its_ids(caption, image_info, tmp_path):
    info, ids = image_info
    said = tmp_path / "said.json"
    code, out, err = caption("--annotations", info, "--output", said, "--json")
    assert (code, err) == (0, "")
    entries = json.loads(said.read_text())
    assert [entry["image_id"] for entry in entries] == [ids[name] for name in sorted(ids)]
    lines = [json.loads(line) for line in out.splitlines()]
    assert [line["image_id"] for line in lines] == [entry["image_id"] for entry in entries]
    assert {line["image"].rpartition("/")[2]: line["image_id"] for line in lines} == ids


def test_images_that_only_one_side_has_are_counted(run, image_info, shapes, tiny_model, tmp_path):
    info, ids = image_info
    content = json.loads(info.read_text())
    listed = content["images"].pop()
    content["images"].append({"id": 999, "file_name": "nowhere.png"})
    info.write_text(json.dumps(content))
    options = ["--model", tiny_model, "--device", "cpu", "--annotations", info]
    code, out, err = run("caption", shapes / "dev", *options)
    assert code == 0
    assert len(out.splitlines()) == len(ids) - 1
    assert listed["file_name"] not in out
    assert f"1 images are not in {info} and are left out" in err
    assert f"1 images of {info} are not among these files" in err
    code, _, err = run("caption", shapes / "train", *options)
    assert code == 2
    assert "lists none of these images" in err
