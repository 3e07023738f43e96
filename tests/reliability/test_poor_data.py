"""Data too poor to learn from is told before the first step, by `check` and `train` alike."""

import json

import pytest
from data_sets import encoded, picture

pytestmark = pytest.mark.row(37)


def problems_of(report):
    return {(it["source"], it["kind"]): it for it in report["problems"]}


def check(run, config, *settings):
    code, out, err = run("check", config, *settings, "--json")
    return code, problems_of(json.loads(out)) if out else err


def test_rare_words_stop_training_and_are_an_error_of_the_check(run, data_set):
    config = data_set.write()
    code, _, err = run("train", config, "data.min_count=5", "--output", data_set.folder / "run")
    kind = "captions whose words are all rarer than data.min_count=5: lower it"
    case = "the most frequent is 'a', 4 times"
    assert (code, err) == (2, f"captioner: data.train: {kind} (1): {case}\n")
    code, problems = check(run, config, "data.min_count=5")
    assert code == 3
    assert problems[("data.train", kind)]["examples"] == [case]
    assert problems[("data.train", kind)]["stops_training"]
    assert check(run, config, "data.min_count=4")[0] == 0


def test_words_are_counted_after_dev_is_held_out(run, data_set):
    config = data_set.write()
    # a quarter of the four images, and so of the four captions, becomes dev
    settings = ("data.dev=null", "data.holdout=0.25", "data.min_count=4")
    assert run("train", config, *settings, "--output", data_set.folder / "run")[0] == 2
    code, problems = check(run, config, *settings)
    assert code == 3
    assert [place for place, _ in problems] == ["data.train"]


def test_one_image_cannot_be_divided_into_train_and_dev(run, data_set):
    for rows in data_set.content["train"].values():
        del rows[1:]
    config = data_set.write()
    message = "one image in train: too few to hold out a part as dev; set data.dev, or add images"
    code, _, err = run("train", config, "data.dev=null", "--output", data_set.folder / "run")
    assert (code, err) == (2, f"captioner: data.train: {message}\n")
    code, problems = check(run, config, "data.dev=null")
    assert code == 3
    [problem] = problems.values()
    assert problem["examples"] == [message]
    shown = run("check", config, "data.dev=null")[1]
    assert [line.split() for line in shown.splitlines() if "images    " in line] == [
        ["images", "1"],
        ["images", "none"],  # not "none: text"
    ]


def test_one_image_beside_a_dev_set_is_a_warning_of_both(run, data_set):
    for rows in data_set.content["train"].values():
        del rows[1:]
    _, problems = check(run, data_set.write())
    assert not problems[("data.train", "too few images to learn from")]["stops_training"]


def test_words_that_the_first_model_knows_are_not_rare(run, data_set, tiny_model, tmp_path):
    data_set.content["train"]["annotations"][0]["caption"] = "a red circle"
    config = data_set.write()
    rare = "captions whose words are all rarer than data.min_count=9: lower it"
    assert ("data.train", rare) in check(run, config, "data.min_count=9")[1]
    problems = check(run, config, "data.min_count=9", f"init={tiny_model}")[1]
    assert ("data.train", rare) not in problems


def test_a_dev_set_whose_words_are_unknown_is_told_by_both(run, data_set, caplog):
    for caption in data_set.content["dev"]["annotations"]:
        caption["caption"] = "un chien"
    config = data_set.write()
    kind = "captions of dev without a word that the model knows, so every score stays 0"
    assert check(run, config)[1][("data.dev", kind)]["examples"] == ["all 4"]
    model = ("encoder.trunk=resnet18", "encoder.weights=none", "encoder.image_size=32")
    short = ("training.phases=[{epochs: 1}]", "training.workers=0")
    assert run("train", config, *model, *short, "--output", data_set.folder / "run")[0] == 0
    assert f"data.dev: {kind} (1): all 4" in caplog.messages


def test_captions_longer_than_the_model_generates_are_told_by_the_check(run, data_set):
    config = data_set.write()
    kind = (
        "captions have more tokens than decoding.max_length=2, which cuts what the model "
        "generates: raise it, for example to 3"
    )
    _, problems = check(run, config, "decoding.max_length=2")
    assert problems[("data.train", kind)]["examples"] == ["100 % of 4"]
    assert check(run, config, "decoding.max_length=2", "data.max_length=2")[1].keys() == {
        (str(data_set.folder / f"{split}.json"), "captions of more than 2 words, cut in training")
        for split in ("train", "dev")
    }
    assert check(run, config, "decoding.max_length=3")[0] == 0


def test_a_file_alone_is_checked_without_a_minimum_count(run, tmp_path):
    for name in ("1.jpg", "2.jpg"):
        (tmp_path / name).write_bytes(encoded(picture(int(name[0]))))
    for rows, expected in (
        ("1.jpg,a dog\n2.jpg,a cat\n", []),
        ("1.jpg,...\n2.jpg,!\n", ["captions without a word, kept", "captions without a word"]),
        ("1.jpg,a dog\n", ["too few images to learn from"]),
    ):
        (tmp_path / "captions.csv").write_text(f"image,caption\n{rows}")
        _, problems = check(run, tmp_path / "captions.csv")
        assert [kind for _, kind in problems] == expected
