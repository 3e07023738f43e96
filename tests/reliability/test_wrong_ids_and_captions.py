"""Repeated and unknown ids stop training; empty captions are left out and counted."""

import pytest

from captioner.data.datasets import load_examples

pytestmark = pytest.mark.row(19)


def train(run, data_set, *settings):
    code, _, err = run("train", data_set.write(), *settings, "--output", data_set.folder / "run")
    assert "Traceback" not in err
    assert not (data_set.folder / "run").exists()
    return code, err


def test_a_repeated_image_id_stops_training(run, data_set):
    images = data_set.content["train"]["images"]
    images.append(images[2])
    code, err = train(run, data_set)
    assert code == 2
    assert "train.json: image ids given more than once (1): 3" in err


def test_a_repeated_annotation_id_stops_training(run, data_set):
    annotations = data_set.content["train"]["annotations"]
    annotations.append(annotations[2] | {"caption": "a cat"})
    code, err = train(run, data_set)
    assert code == 2
    assert "train.json: annotation ids given more than once (1): 2" in err


@pytest.mark.parametrize("image_id", [99, "1"])
def test_an_annotation_of_an_image_that_is_not_listed_stops_training(run, data_set, image_id):
    data_set.caption("train", image_id, "a dog of nobody")
    code, err = train(run, data_set)
    assert code == 2
    assert f"train.json: annotations of an unknown image (1): 4 (image {image_id!r})" in err


def test_a_caption_that_is_not_a_string_stops_training(run, data_set):
    data_set.caption("train", 1, ["a", "dog"])
    code, err = train(run, data_set)
    assert code == 2
    assert "train.json: wrong `caption` (1): annotations[4].caption is ['a', 'dog']" in err


def test_ids_may_be_strings(run, data_set):
    data_set.image("dev", "a7")
    assert run("check", data_set.write())[0] == 0


def test_empty_captions_are_left_out_and_counted(data_set, caplog):
    for caption in ("", " \n", None):
        data_set.caption("train", 1, caption)
    data_set.image("train", 9, captions=[""])
    data_set.write()
    with caplog.at_level("WARNING", "captioner"):
        examples = load_examples(data_set.folder / "train.json")
    assert {example.image_id: example.captions for example in examples} == dict.fromkeys(
        (1, 2, 3, 4), ("a dog runs",)
    )
    path = data_set.folder / "train.json"
    assert caplog.messages == [
        f"{path}: empty captions, left out (4): 1 #2, 1 #3, 1 #4, 9 #1",
        f"{path}: images without a caption, left out (1): 9",
    ]
