"""Calibrating a model folder."""

import pytest

from captioner import Captioner
from captioner.metrics.calibration import GeneratedWord, fit_temperature
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


def test_the_temperature_that_fits_the_folders_own_captions_is_kept(calibrate, folder, shapes):
    from captioner.data.datasets import load_examples

    captioner = Captioner.from_pretrained(folder, device="cpu")
    said = []
    for example in load_examples(shapes / "captions_dev.json", shapes / "dev"):
        people = {word for caption in example.captions for word in tokenize(caption)}
        said.append(
            [
                GeneratedWord(word.log_prob, word.text in people)
                for word in captioner.caption(example.path).words
            ]
        )
    code, out, err = calibrate()
    assert code == 0
    assert "8 images are too few for reliable figures" in err
    kept = read_config(folder)["confidence"]
    assert kept["temperature"] == pytest.approx(fit_temperature(said), rel=1e-2)
    assert kept["images"] == 8
    assert f"temperature {kept['temperature']:.3f}" in out


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
