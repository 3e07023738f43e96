"""Training images that cannot be read: an error that names them, or they are skipped."""

import json
import shutil

import pytest
from trainings import outcome, small

from captioner.errors import CaptionerError
from captioner.training.checkpoint import checkpoints
from captioner.training.train import train

pytestmark = pytest.mark.row(13)

FAULTS = (
    lambda whole: b"",
    lambda whole: b"<!DOCTYPE html>404",
    lambda whole: whole[: len(whole) // 2],
)


@pytest.fixture
def damaged(tiny, shapes, tmp_path):
    """Return a function that makes a config; three train images and one dev image are broken."""
    for split in ("train", "dev"):
        shutil.copytree(shapes / split, tmp_path / split)
        shutil.copy(shapes / f"captions_{split}.json", tmp_path)
    images = sorted((tmp_path / "train").iterdir())[:3]
    for image, fault in zip(images, FAULTS, strict=True):
        image.write_bytes(fault(image.read_bytes()))
    sorted((tmp_path / "dev").iterdir())[0].write_bytes(b"")

    def make(output="run", training=None, **data):
        sources = {
            split: {"annotations": tmp_path / f"captions_{split}.json", "images": tmp_path / split}
            for split in ("train", "dev")
        }
        return small(tiny, data=sources | data, training=training or {}, output=tmp_path / output)

    return make


@pytest.mark.parametrize("cached", [True, False])
def test_by_default_the_first_bad_image_ends_the_run_with_a_way_out(damaged, cached):
    with pytest.raises(
        CaptionerError, match=r"\.png: .*data\.on_bad_image=skip.*start again"
    ) as error:
        train(damaged(training={"cache_features": cached}), device="cpu")
    assert error.value.exit_code == 1


def test_a_folder_with_the_name_of_an_image_is_named_as_such(damaged, tmp_path):
    """The hash of its content comes before any image is decoded."""
    image = sorted((tmp_path / "train").iterdir())[0]
    image.unlink()
    image.mkdir()
    with pytest.raises(CaptionerError, match=rf"{image.name}: is a folder, not.*on_bad_image=skip"):
        train(damaged(), device="cpu")


@pytest.mark.parametrize("cached", [True, False])
def test_skipping_trains_on_the_other_images_and_lists_the_skipped_ones(
    damaged, tmp_path, capsys, cached
):
    config = damaged(training={"cache_features": cached}, on_bad_image="skip", bad_images=0.2)
    train(config, device="cpu")
    skipped = json.loads((tmp_path / "run" / "skipped.json").read_text())
    assert [len(skipped["train"]), len(skipped["dev"])] == [3, 1]
    reasons = " ".join(problem["reason"] for problem in skipped["train"])
    assert all(word in reasons for word in ("empty", "HTML", "truncated"))
    assert "3 of 24 images of train cannot be read and are skipped: see" in capsys.readouterr().err


def test_skipping_equals_a_run_on_the_readable_images(damaged, tmp_path):
    train(damaged(on_bad_image="skip", bad_images=0.2), device="cpu")
    skipped = json.loads((tmp_path / "run" / "skipped.json").read_text())
    for split in ("train", "dev"):
        ids = {problem["image_id"] for problem in skipped[split]}
        file = tmp_path / f"captions_{split}.json"
        about = json.loads(file.read_text())
        about["images"] = [image for image in about["images"] if image["id"] not in ids]
        about["annotations"] = [
            note for note in about["annotations"] if note["image_id"] not in ids
        ]
        file.write_text(json.dumps(about))
    train(damaged(output="clean"), device="cpu")
    assert outcome(tmp_path / "run") == outcome(tmp_path / "clean")


def test_more_bad_images_than_the_limit_are_refused_before_training(damaged, tmp_path):
    with pytest.raises(
        CaptionerError, match=r"3 of 24 images cannot be read, more than data\.bad_images=0\.01"
    ):
        train(damaged(on_bad_image="skip"), device="cpu")
    assert not checkpoints(tmp_path / "run")


def test_a_resumed_run_skips_the_images_that_it_started_without(damaged, shapes, tmp_path):
    settings = {"on_bad_image": "skip", "bad_images": 0.2}
    train(damaged(output="unbroken", **settings), device="cpu")
    train(damaged(training={"max_steps": 2, "validate_every": 100}, **settings), device="cpu")
    shutil.copytree(shapes / "train", tmp_path / "train", dirs_exist_ok=True)  # all repaired
    train(damaged(training={"validate_every": 100}, **settings), device="cpu", resume="auto")
    assert outcome(tmp_path / "unbroken")[1:3] == outcome(tmp_path / "run")[1:3]
