"""Training from shards: the losses of the files that they were made of, also in a resumed run."""

import json
import shutil

import pytest

from captioner.config.run import SourceConfig
from captioner.data.datasets import load_examples
from captioner.data.shard_writer import plan_shards, write_shards
from captioner.errors import UsageError
from captioner.progress import Progress
from captioner.training.recorder import read_log
from captioner.training.train import train

PIXELS = {"cache_features": False, "phases": [{"epochs": 2}], "validate_every": 100}


@pytest.fixture(scope="module")
def shards(shapes, tmp_path_factory):
    """Shards of the small data set: three of train, one of dev."""
    folder = tmp_path_factory.mktemp("shards")
    for split in ("train", "dev"):
        examples = load_examples(shapes / f"captions_{split}.json", shapes / split)
        plan = plan_shards(examples, size=10)
        assert write_shards(examples, folder / split, plan, Progress("")) == []
    return folder


@pytest.fixture
def on_shards(tiny, shards):
    """Return a function that makes the config of a run on shards."""

    def make(folder=shards, **sections):
        data = {
            "train": {"shards": f"{folder}/train/{{00000..00002}}.tar"},
            "dev": {"shards": f"{folder}/dev"},
        }
        return tiny(data=data | sections.pop("data", {}), **sections)

    return make


def losses(folder):
    return [line["loss"] for line in read_log(folder) if "loss" in line]


def scores(folder):
    return [
        {name: value for name, value in line.items() if name.startswith(("CIDEr", "dev_loss"))}
        for line in read_log(folder)
        if "dev_loss" in line
    ]


@pytest.mark.parametrize("training", [{"max_steps": 3}, PIXELS | {"max_steps": 2}])
def test_shards_give_the_losses_of_the_files_that_they_were_made_of(
    tiny, on_shards, tmp_path, training
):
    """With cached features, and with images that two workers read in processes of their own."""
    workers = {"workers": 2} if "cache_features" in training else {}
    of_files, of_shards = (tmp_path / name / "run" for name in ("of_files", "of_shards"))
    train(tiny(training=training, output=of_files), device="cpu")
    train(on_shards(training=training | workers, output=of_shards), device="cpu")
    assert losses(of_files) == losses(of_shards) != []
    assert scores(of_files) == scores(of_shards) != []


def test_a_run_on_shards_that_is_resumed_within_an_epoch_is_the_unbroken_one(
    on_shards, shards, tmp_path, capsys
):
    """It stops after 2 of the 3 steps of an epoch, and continues on shards that were moved."""
    shutil.copytree(shards, tmp_path / "moved")
    for name, folder, stop in (
        ("whole", shards, 5),
        ("parts", shards, 2),
        ("parts", tmp_path / "moved", 5),
    ):
        config = on_shards(folder, training=PIXELS | {"max_steps": stop}, output=tmp_path / name)
        train(config, device="cpu", resume="auto")
    assert len(losses(tmp_path / "whole")) == 5
    assert losses(tmp_path / "whole") == losses(tmp_path / "parts")
    assert "changed since" not in capsys.readouterr().err


def test_what_is_intact_in_damaged_shards_is_used_if_bad_images_are_skipped(
    on_shards, shards, tmp_path
):
    damaged = tmp_path / "damaged"
    shutil.copytree(shards, damaged)
    tar = damaged / "train" / "00001.tar"
    tar.write_bytes(tar.read_bytes()[:20_000])
    broken = damaged / "dev" / "00000.tar"
    content = bytearray(broken.read_bytes())
    content[512:700] = bytes(188)  # of the first image
    broken.write_bytes(content)
    with pytest.raises(UsageError, match=r"00001.tar: truncated .* of 000000\d\d.*20,000 bytes"):
        train(on_shards(damaged, training=PIXELS), device="cpu")
    data = {"on_bad_image": "skip", "bad_images": 0.2}
    config = on_shards(damaged, data=data, training=PIXELS | {"max_steps": 1})
    train(config, device="cpu")
    skipped = json.loads((config.output / "skipped.json").read_text())
    [record] = skipped["dev"]
    assert skipped["train"] == []
    assert record["image_id"] == "00000/00000000"
    assert record["file"] == f"{broken}/00000000.png"


def test_shards_have_no_splits_and_no_folder_of_images():
    for option, value in {"split": "train", "images": "photos", "restval": True}.items():
        with pytest.raises(ValueError, match=f"shards have .* inside: leave out {option}"):
            SourceConfig(shards="x.tar", **{option: value})


@pytest.mark.slow
def test_two_ranks_take_the_steps_of_one_on_shards(on_shards, tmp_path, train_on_two_ranks):
    config = on_shards(training={"phases": [{"epochs": 1}]})
    train_on_two_ranks(config)
    single = on_shards(training={"phases": [{"epochs": 1}]}, output=tmp_path / "single")
    train(single, device="cpu")
    assert len(losses(config.output)) == len(losses(single.output)) == 3
    assert losses(config.output)[0] == pytest.approx(losses(single.output)[0], rel=0.05)
