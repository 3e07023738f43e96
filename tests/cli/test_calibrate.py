"""Calibrating a model folder."""

import json
import shutil

import pytest

from captioner import Captioner
from captioner.captions import Caption
from captioner.data.datasets import load_examples
from captioner.metrics.calibration import GeneratedWord, fit_temperature, fit_threshold
from captioner.models.folder import read_config
from captioner.text.tokenizer import tokenize


@pytest.fixture
def folder(tiny_model, tmp_path):
    folder = tmp_path / "model"
    Captioner.from_pretrained(tiny_model, device="cpu").save_pretrained(folder)
    (folder / "README.md").write_text("my model")
    return folder


@pytest.fixture
def calibrate(run, shapes, folder):
    def call(images=shapes / "dev"):
        asked = ["--annotations", shapes / "captions_dev.json", "--images", images]
        return run("calibrate", "--model", folder, *asked, "--device", "cpu")

    return call


def generated_words(folder, annotations, images):
    """The words that the model of a folder generates for each image."""
    captioner = Captioner.from_pretrained(folder, device="cpu")
    generated = []
    for example in load_examples(annotations, images):
        references = {word for caption in example.captions for word in tokenize(caption)}
        words = captioner.caption(example.path).words
        generated.append([GeneratedWord(word.log_prob, word.text in references) for word in words])
    return generated


def test_the_temperature_that_fits_the_folders_own_captions_is_kept(calibrate, folder, shapes):
    generated = generated_words(folder, shapes / "captions_dev.json", shapes / "dev")
    code, out, err = calibrate()
    assert code == 0
    assert "captions_dev.json: 8 images are too few for reliable figures" in err
    kept = read_config(folder)["confidence"]
    assert kept["temperature"] == pytest.approx(fit_temperature(generated), rel=1e-2)
    assert kept["images"] == 8
    assert f"temperature {kept['temperature']:.3f}" in out


@pytest.fixture
def two_sets(folder, shapes, tmp_path):
    """The annotations and images of 8 drawings; and of 24, half of whose captions are right."""
    images = sorted((shapes / "train").iterdir())
    captions = Captioner.from_pretrained(folder, device="cpu").caption(images)
    references = (
        {"image": image.name, "captions": ["nothing" if number % 2 else caption.text]}
        for number, (image, caption) in enumerate(zip(images, captions, strict=True))
    )
    own = tmp_path / "captions.jsonl"
    own.write_text("\n".join(map(json.dumps, references)))
    return (shapes / "captions_dev.json", shapes / "dev"), (own, shapes / "train")


def test_several_data_sets_are_weighted_equally_and_have_a_row_each(run, folder, two_sets):
    options = [
        option
        for annotations, images in two_sets
        for option in ("--annotations", annotations, "--images", images)
    ]
    words = [generated_words(folder, *each) for each in two_sets]
    code, out, _ = run("calibrate", "--model", folder, *options, "--device", "cpu")
    assert code == 0
    kept = read_config(folder)["confidence"]
    assert kept["temperature"] == pytest.approx(fit_temperature(*words), rel=1e-3)
    assert kept["images"] == 8 + 24
    assert kept["threshold"] == pytest.approx(
        fit_threshold(*words, temperature=kept["temperature"]), rel=1e-3
    )
    assert f"threshold {kept['threshold']:.3f}" in out
    rows = {line.split()[0]: line.split()[1:] for line in out.splitlines() if "%" in line}
    (first, second, mean) = (rows[name] for name in (*(str(a) for a, _ in two_sets), "mean"))
    for column in (0, 1):  # the calibration errors
        expected = (float(first[column]) + float(second[column])) / 2
        assert float(mean[column]) == pytest.approx(expected, abs=1e-3)
    assert float(mean[0]) == pytest.approx(kept["error"], abs=1e-3)


def test_images_are_found_beside_each_of_several_annotations(run, folder, two_sets, tmp_path):
    copies = []
    for number, (annotations, images) in enumerate(two_sets):
        copies.append(tmp_path / str(number) / annotations.name)
        shutil.copytree(images, copies[-1].parent / "images")
        shutil.copy(annotations, copies[-1])
    first, second = copies
    options = ["--annotations", first, "--annotations", second, "--device", "cpu"]
    assert run("calibrate", "--model", folder, *options)[0] == 0
    assert read_config(folder)["confidence"]["images"] == 8 + 24


def test_several_data_sets_need_a_folder_of_images_each(run, folder, two_sets):
    (first, images), (second, _) = two_sets
    options = ["--annotations", first, "--annotations", second, "--images", images]
    code, _, err = run("calibrate", "--model", folder, *options)
    assert code == 2
    assert "--images names 1 folders for 2 data sets: name one for each, in the same order" in err
    assert read_config(folder)["confidence"] is None


def test_without_right_and_wrong_captions_there_is_no_threshold(run, folder, shapes, tmp_path):
    lines = [{"image": file.name, "captions": ["nothing"]} for file in (shapes / "dev").iterdir()]
    (tmp_path / "captions.jsonl").write_text("\n".join(map(json.dumps, lines)))
    options = ["--annotations", tmp_path / "captions.jsonl", "--images", shapes / "dev"]
    code, out, _ = run("calibrate", "--model", folder, *options, "--device", "cpu")
    assert code == 0
    assert "no threshold" in out
    assert out.splitlines()[-3].split()[-5:] == ["0%", "0%", "-", "0%", "-"]
    assert read_config(folder)["confidence"]["threshold"] is None


def test_a_calibrated_folder_is_valid_and_keeps_its_other_files(calibrate, folder, photo):
    before = Captioner.from_pretrained(folder, device="cpu").caption(photo)
    calibrate()
    after = Captioner.from_pretrained(folder, device="cpu").caption(photo)
    assert after.text == before.text
    assert after.confidence is not None
    assert (folder / "README.md").read_text() == "my model"


def test_a_model_card_can_be_edited_afterwards(calibrate, folder, photo):
    calibrate()
    (folder / "README.md").write_text("my better model")
    assert Captioner.from_pretrained(folder, device="cpu").caption(photo).text


def test_calibrating_twice_gives_the_same(calibrate):
    assert calibrate()[1] == calibrate()[1]


def test_without_an_image_that_can_be_read_the_folder_stays_as_it_was(
    calibrate, folder, shapes, tmp_path
):
    (tmp_path / "broken").mkdir()
    for file in (shapes / "dev").iterdir():
        (tmp_path / "broken" / file.name).write_bytes(b"")
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    code, _, err = calibrate(tmp_path / "broken")
    assert code == 1
    assert "none of the 8 images" in err
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before


def test_captions_without_a_word_are_told_apart_from_images_that_cannot_be_read(
    calibrate, monkeypatch
):
    def stream(self, images, **_):
        return (Caption("", (), -1.0) for _ in images)

    monkeypatch.setattr(Captioner, "stream", stream)
    code, _, err = calibrate()
    assert code == 1
    assert "every caption of the 8 images of " in err
