"""Runs on several data sets and on text: scored apart, resumed exactly, and no source confused."""

import json
import shutil

import numpy as np
import pytest

from captioner.data.datasets import load_references
from captioner.errors import UsageError
from captioner.metrics.meteor import PARTIAL_NAME
from captioner.metrics.scorer import Scorer
from captioner.training.checkpoint import checkpoints
from captioner.training.phase import Phase
from captioner.training.recorder import read_log
from captioner.training.train import train
from captioner.training.trainer import Trainer
from captioner.training.validation import Validator

LINES = [f"a {size} {color} zeppelin" for size in ("big", "small") for color in ("red", "green")]


@pytest.fixture
def two(tiny, shapes, tmp_path):
    """Return a function that makes the config of a run on two sources with the same image ids."""
    (tmp_path / "text.txt").write_text("\n".join(LINES * 9) + "\n")
    (tmp_path / "other").mkdir()
    for split in ("train", "dev"):
        about = json.loads((shapes / f"captions_{split}.json").read_text())
        ids = [image["id"] for image in about["images"]]
        for image, number in zip(about["images"], reversed(ids), strict=True):
            image["id"] = number  # the same ids for other pictures
        (tmp_path / "other" / f"{split}.json").write_text(json.dumps(about))

    def make(text=None, **sections):
        values = tiny().to_json()["data"]
        own = {
            split: {
                "annotations": tmp_path / "other" / f"{split}.json",
                "images": shapes / split,
                "name": "other",
            }
            for split in ("train", "dev")
        }
        data = {split: [*values[split], own[split]] for split in own}
        if text is not None:
            data["train"] += [{"text": tmp_path / "text.txt"} | text]
        return tiny(data=data | sections.pop("data", {}), **sections)

    return make


def validations(config):
    return [line for line in read_log(config.output) if "dev_loss" in line]


def test_dev_sources_are_scored_apart_and_together(two, monkeypatch):
    captioned = []
    results = Validator._results

    def keep(self, *arguments):
        captioned.append(results(self, *arguments))
        return captioned[-1]

    monkeypatch.setattr(Validator, "_results", keep)
    config = two(training={"phases": [{"epochs": 1}]})
    train(config, device="cpu")
    [line], [validation] = validations(config), captioned
    references = [list(load_references(source.path).values()) for source in config.data.dev]
    first, second = validation.captions[:8], validation.captions[8:]
    for suffix, captions, expected in (
        ("/captions_dev", first, references[0]),
        ("/other", second, references[1]),
        ("", first + second, references[0] + references[1]),
    ):
        scores = Scorer(dict(enumerate(expected))).score(dict(enumerate(captions)))
        assert {"CIDEr", "Bleu_4", "ROUGE_L", PARTIAL_NAME} < set(scores.metrics)
        for metric in scores.metrics:
            assert line[f"{metric}{suffix}"] == scores.metrics[metric]


def test_a_validation_does_not_look_for_meteors_paraphrases(tiny, monkeypatch):
    monkeypatch.setenv("CAPTIONER_METEOR", "/nowhere")  # refused by whatever looks for them
    config = tiny(training={"max_steps": 1})
    train(config, device="cpu")
    assert PARTIAL_NAME in validations(config)[-1]


def test_one_dev_source_adds_no_names_to_the_log(tiny, capsys):
    config = tiny(training={"max_steps": 1})
    train(config, device="cpu")
    assert not any("/" in name for name in validations(config)[-1])
    assert "captions_dev" not in capsys.readouterr().err


def test_the_line_of_a_validation_shows_each_source(two, capsys):
    train(two(training={"max_steps": 1}), device="cpu")
    shown = capsys.readouterr().err
    assert "computing the features of train (captions_train), once: 24 images" in shown
    assert "  other: BLEU-4 0.0  CIDEr-D " in shown


@pytest.mark.parametrize(("select_by", "best"), [("mean", 2), ("other", 1), ("captions_dev", 0)])
def test_the_best_model_is_chosen_by_a_source_or_by_their_mean(two, monkeypatch, select_by, best):
    """CIDEr-D of the sources by validation: 9, 1; 1, 9; 6, 7. Their means: 5, 5, 6.5."""
    ciders = iter([(9.0, 1.0), (1.0, 9.0), (6.0, 7.0)])
    results = Validator._results

    def planned(self, *arguments):
        validation = results(self, *arguments)
        for scores, cider in zip(validation.source_scores.values(), next(ciders), strict=True):
            scores.metrics["CIDEr"] = cider
        return validation

    monkeypatch.setattr(Validator, "_results", planned)
    saved = []
    monkeypatch.setattr(
        Trainer,
        "write_model",
        lambda self, folder: saved.append(folder.name) or (folder / "x").touch(),
    )
    config = two(training={"phases": [{"epochs": 3}], "select_by": select_by})
    train(config, device="cpu")
    epochs, count = [], 0
    for folder in saved:  # a best model is written before the checkpoint of its epoch
        if "best" in folder:
            epochs.append(count)
        else:
            count += 1
    assert epochs[-1] == best


def test_a_source_that_dev_does_not_have_cannot_choose_the_best_model(two):
    with pytest.raises(
        UsageError, match=r"select_by is 'x', but dev has captions_dev, other: choo"
    ):
        train(two(training={"select_by": "x"}), device="cpu")


@pytest.mark.parametrize("context", ["every_step", "attention"])
def test_a_run_with_text_that_is_resumed_within_an_epoch_is_the_unbroken_one(
    two, tmp_path, context
):
    def config(name, **training):
        return two(
            text={"share": 0.4},
            output=tmp_path / name,
            decoder={"context": context},
            training={"phases": [{"epochs": 2}], "validate_every": 20, **training},
        )

    train(config("whole"), device="cpu")
    steps = [line["step"] for line in read_log(tmp_path / "whole") if "loss" in line]
    for stop in (5, 23):  # neither is the end of an epoch
        assert steps[-1] // 2 != stop
        train(config("parts", max_steps=stop), device="cpu", resume="auto")
    train(config("parts"), device="cpu", resume="auto")
    whole, parts = (read_log(tmp_path / name) for name in ("whole", "parts"))
    # A run that max_steps ended was validated there too.
    of_steps = [[line for line in log if "loss" in line] for log in (whole, parts)]
    assert of_steps[0] == of_steps[1]
    assert [line for line in whole if "CIDEr" in line][-1] in parts


def test_text_fills_its_share_of_an_epoch_and_its_words_are_learnt(two):
    """2 x 24 images with 5 captions are 240 of them: with a share of 0.4, there are 160 of text."""
    config = two(text={"share": 0.4}, training={"phases": [{"epochs": 1}]})
    best = train(config, device="cpu")
    steps = [line for line in read_log(config.output) if "loss" in line]
    assert len(steps) == (48 + 160) // 8
    assert "zeppelin" in json.loads((best / "vocab.json").read_text())["words"]


def test_a_model_to_start_from_gets_the_words_of_text(two, tiny_model):
    config = two(text={}, training={"max_steps": 1})
    best = train(config.model_copy(update={"init": str(tiny_model)}), device="cpu")
    old, new = (
        json.loads((each / "vocab.json").read_text())["words"] for each in (tiny_model, best)
    )
    assert new[: len(old)] == old
    assert "zeppelin" in new[len(old) :]


def test_phases_that_need_images_leave_the_text_out_and_say_so(two, capsys, monkeypatch):
    rows = []
    run_epoch = Phase._run_epoch
    monkeypatch.setattr(
        Phase,
        "_run_epoch",
        lambda self, step: rows.append(self.sampler.num_rows) or run_epoch(self, step),
    )
    phases = [
        {"epochs": 1},
        {"epochs": 1, "finetune_from": "stem"},
        {"epochs": 1, "augmentation": "mild_crop"},
        {"epochs": 1, "objective": "self_critical"},
    ]
    train(two(text={"share": 0.4}, training={"phases": phases}), device="cpu")
    assert rows == [208, 48, 48, 208]
    assert capsys.readouterr().err.count("phase 2, 3 leave the text out") == 1


@pytest.mark.parametrize(
    "training", [{"cache_features": False}, {"phases": [{"finetune_from": "stem"}]}]
)
def test_text_that_no_phase_can_use_is_refused(two, training):
    with pytest.raises(UsageError, match=r"no phase can use the text .* add a phase without"):
        train(two(text={}, training=training), device="cpu")


def test_another_source_or_text_recomputes_no_features(tiny, two, tmp_path):
    training = {"max_steps": 1}
    train(tiny(training=training, output=tmp_path / "one"), device="cpu")
    files = list((tmp_path / "features").glob("*/features.npy"))
    times = [file.stat().st_mtime_ns for file in files]
    train(two(text={}, training=training, output=tmp_path / "two"), device="cpu")
    assert [file.stat().st_mtime_ns for file in files] == times
    assert len(list((tmp_path / "features").glob("*/features.npy"))) == 2 * len(files) == 4


def test_an_image_is_skipped_in_its_own_source_only(two, shapes, tmp_path):
    """Both sources have an image with the id 1; that of `other` cannot be read."""
    shutil.copytree(shapes / "train", tmp_path / "damaged")
    about = json.loads((tmp_path / "other" / "train.json").read_text())
    [name] = [image["file_name"] for image in about["images"] if image["id"] == 1]
    (tmp_path / "damaged" / name).write_bytes(b"")
    config = two(training={"max_steps": 1})
    other = config.data.train[1].model_copy(update={"images": tmp_path / "damaged"})
    data = {"train": (config.data.train[0], other), "on_bad_image": "skip", "bad_images": 0.2}
    config = config.model_copy(update={"data": config.data.model_copy(update=data)})
    train(config, device="cpu")
    skipped = json.loads((config.output / "skipped.json").read_text())
    assert {name: [each["image_id"] for each in records] for name, records in skipped.items()} == {
        "train/captions_train": [],
        "train/other": [1],
        "dev/captions_dev": [],
        "dev/other": [],
    }
    counts = sorted(
        len(json.loads(file.read_text()))
        for file in (tmp_path / "features").glob("train-*/ids.json")
    )
    assert counts == [23, 24]


@pytest.mark.slow
def test_two_ranks_take_the_steps_of_one_with_text_and_two_dev_sources(
    two, tmp_path, train_on_two_ranks
):
    config = two(text={"share": 0.4}, training={"phases": [{"epochs": 1}]})
    train_on_two_ranks(config)
    assert [path.name for path in checkpoints(config.output)] == ["checkpoint-26"]
    assert "CIDEr/other" in validations(config)[-1]
    train(config.model_copy(update={"output": tmp_path / "single"}), device="cpu")
    ranks, single = read_log(config.output)[0], read_log(tmp_path / "single")[0]
    assert ranks["loss"] == pytest.approx(single["loss"], rel=0.05)  # with other dropout masks


def test_a_visit_trains_on_the_whole_image_or_on_one_of_its_cached_crops(tiny, monkeypatch):
    config = tiny(training={"cached_crops": 2, "phases": [{"epochs": 6}], "validate_every": 18})
    seen = {}  # image -> features that the model was trained on
    train_step = Phase._take_step

    def record(self, objective, micro_batches):
        for batch in micro_batches:
            for index, features in zip(batch.example_index.tolist(), batch.source, strict=True):
                seen.setdefault(index, set()).add(tuple(features.flatten().tolist()))
        return train_step(self, objective, micro_batches)

    monkeypatch.setattr(Phase, "_take_step", record)
    train(config, device="cpu")
    views = [
        np.load(file)
        for folder in sorted((config.output.parent / "features").glob("train-*"))
        for file in folder.glob("features.npy")
    ]
    assert len(views) == 3
    for index, features in seen.items():
        assert features <= {tuple(view[index].astype("float32").flatten()) for view in views}
    assert max(map(len, seen.values())) == 3
    # dev has no crops, and its images are always whole
    assert len(list((config.output.parent / "features").glob("dev-*"))) == 1


def test_the_crops_of_runs_with_other_seeds_are_the_same_files(tiny, tiny_model, tmp_path):
    for seed in (0, 1):
        settings = {"cached_crops": 1, "seed": seed, "max_steps": 1}
        output = tmp_path / f"run{seed}"
        train(tiny(training=settings, init=str(tiny_model), output=output), device="cpu")
    assert len(list((tmp_path / "features").glob("train-*"))) == 2
