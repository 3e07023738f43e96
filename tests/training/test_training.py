"""A run is reproducible, can be resumed, learns, and writes all its files."""

import json
import os
import re
import shutil

import pytest
import torch
from safetensors.torch import load_file

from captioner.data.datasets import Example
from captioner.errors import UsageError
from captioner.training.checkpoint import checkpoints
from captioner.training.recorder import read_log
from captioner.training.train import start_model, train


def weights_of(folder):
    return load_file(folder / "model.safetensors")


def assert_same_run(one, other):
    """Compare logs, weights of the last checkpoints and best models, bit for bit."""
    assert (one / "metrics.jsonl").read_bytes() == (other / "metrics.jsonl").read_bytes()
    for folder in (checkpoints(one)[-1].name, "best"):
        ours, theirs = weights_of(one / folder), weights_of(other / folder)
        assert all(torch.equal(ours[name], theirs[name]) for name in ours | theirs)


PHASES = [{"epochs": 2}, {"epochs": 1, "finetune_from": "layer4", "augmentation": "mild_crop"}]


def test_a_run_writes_the_best_model_checkpoints_metrics_and_pictures(tiny, tmp_path):
    best = train(tiny(), device="cpu")
    assert best == tmp_path / "run" / "best"
    assert {"config.json", "model.safetensors", "vocab.json"} <= {
        file.name for file in best.iterdir()
    }
    assert [path.name for path in checkpoints(tmp_path / "run")] == ["checkpoint-3", "checkpoint-6"]
    assert (tmp_path / "run" / "config.yaml").exists()
    assert (tmp_path / "run" / "samples.png").stat().st_size > 1000
    lines = read_log(tmp_path / "run")
    assert [line["step"] for line in lines if "loss" in line] == [1, 2, 3, 4, 5, 6]
    assert [line["step"] for line in lines if "CIDEr" in line] == [3, 6]


def test_the_same_seed_gives_the_same_run_and_another_seed_another(tiny, tmp_path):
    for name, seed in (("one", 0), ("same", 0), ("other", 1)):
        train(tiny(output=tmp_path / name, training={"seed": seed}), device="cpu")
    assert_same_run(tmp_path / "one", tmp_path / "same")
    assert (tmp_path / "one" / "metrics.jsonl").read_bytes() != (
        tmp_path / "other" / "metrics.jsonl"
    ).read_bytes()


def test_resuming_a_finished_run_changes_nothing(tiny, tmp_path):
    train(tiny(), device="cpu")
    before = (
        weights_of(tmp_path / "run" / "best"),
        (tmp_path / "run" / "metrics.jsonl").read_bytes(),
    )
    train(tiny(), device="cpu", resume="auto")
    assert (tmp_path / "run" / "metrics.jsonl").read_bytes() == before[1]
    assert all(
        torch.equal(tensor, before[0][name])
        for name, tensor in weights_of(tmp_path / "run" / "best").items()
    )


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"max_steps": 1}, "training.max_steps=1 is reached; a larger one goes on"),
        (
            {"early_stopping": 1, "phases": [{"epochs": 9, "learning_rate": 1e-12}]},
            "the last 1 validations were not better than the best one (training.early_stopping=1)",
        ),
        ({"phases": [{"epochs": 1}]}, "all 1 epochs of the last phase are done"),
    ],
)
def test_a_run_that_takes_no_further_step_says_why(tiny, capsys, settings, reason):
    train(tiny(training=settings), device="cpu")
    assert "no step was left" not in capsys.readouterr().err
    train(tiny(training=settings), device="cpu", resume="auto")
    assert f"no step was left to take: {reason}" in capsys.readouterr().err


def test_a_folder_that_contains_a_run_is_not_overwritten(tiny):
    train(tiny(training={"max_steps": 1}), device="cpu")
    message = (
        "already contains a run: set resume to 'auto' to continue it, or choose another output"
    )
    being_written = tiny().output / "checkpoint-2.captioner-tmp"  # by a run that is alive
    being_written.mkdir()
    with pytest.raises(UsageError, match=message):
        train(tiny(), device="cpu")
    assert being_written.exists()


def test_max_steps_stops_a_run_within_an_epoch_with_a_best_model(tiny, tmp_path):
    best = train(tiny(training={"max_steps": 2}), device="cpu")
    assert [path.name for path in checkpoints(tmp_path / "run")] == ["checkpoint-2"]
    assert (best / "model.safetensors").exists()


def test_a_run_whose_last_step_saves_a_checkpoint_is_still_validated(tiny, tmp_path):
    settings = {"max_steps": 2, "checkpoint_every": 1}
    best = train(tiny(training=settings), device="cpu")
    assert (best / "model.safetensors").exists()
    log = (tmp_path / "run" / "metrics.jsonl").read_bytes()
    train(tiny(training=settings), device="cpu", resume="auto")
    assert (tmp_path / "run" / "metrics.jsonl").read_bytes() == log


def test_features_are_computed_once_and_give_the_same_losses_as_images(tiny, tmp_path):
    train(tiny(output=tmp_path / "images", training={"cache_features": False}), device="cpu")
    train(tiny(output=tmp_path / "cached"), device="cpu")
    files = list((tmp_path / "features").glob("*/features.npy"))
    assert len(files) == 2  # train and dev
    times = [file.stat().st_mtime_ns for file in files]
    train(tiny(output=tmp_path / "again"), device="cpu")
    assert [file.stat().st_mtime_ns for file in files] == times
    for seen, cached in zip(
        read_log(tmp_path / "images"), read_log(tmp_path / "cached"), strict=True
    ):
        for name in ("loss", "dev_loss"):
            assert seen.get(name, 0) == pytest.approx(cached.get(name, 0), rel=1e-3)


def of_train(folder):
    return sorted(path.name for path in folder.glob("train-*"))


def test_the_cache_knows_an_image_by_its_content_and_not_by_its_size_and_time(
    tiny, tmp_path, shapes
):
    """An image is replaced by one of the same size and time; then only its time changes."""
    folder = tmp_path / "train"
    shutil.copytree(shapes / "train", folder)
    data = tiny().data.train[0].model_dump() | {"images": folder}
    short = {"data": {"train": data, "min_count": 1}, "training": {"max_steps": 1}}
    train(tiny(output=tmp_path / "one", **short), device="cpu")
    (first,) = of_train(tmp_path / "features")
    picture = next(folder.iterdir())
    before, content = picture.stat(), bytearray(picture.read_bytes())
    content[-1] ^= 1  # in the check sum after the last pixel
    picture.write_bytes(content)
    os.utime(picture, ns=(before.st_atime_ns, before.st_mtime_ns))
    train(tiny(output=tmp_path / "two", **short), device="cpu")
    both = of_train(tmp_path / "features")
    assert first in both
    assert len(both) == 2
    picture.touch()
    train(tiny(output=tmp_path / "three", **short), device="cpu")
    assert of_train(tmp_path / "features") == both


def test_a_run_can_memorize_four_captions(tiny, tmp_path):
    settings = {
        "batch_size": 2,
        "phases": [{"epochs": 60, "learning_rate": 1e-2}],
        "validate_every": 120,
    }
    config = tiny(
        encoder={"trunk": "resnet18"},  # which tells these small images apart
        decoder={"hidden_size": 64, "embed_size": 32, "dropout": 0.0},
        training=settings,
    )
    source = json.loads(config.data.train[0].annotations.read_text())
    chosen = source["images"][:4]
    first = {note["image_id"]: note for note in reversed(source["annotations"])}
    few = source | {"images": chosen, "annotations": [first[image["id"]] for image in chosen]}
    (tmp_path / "four.json").write_text(json.dumps(few))
    split = config.data.train[0].model_copy(update={"annotations": tmp_path / "four.json"})
    train(
        config.model_copy(
            update={"data": config.data.model_copy(update={"train": (split,), "dev": (split,)})}
        ),
        device="cpu",
    )
    last = [line for line in read_log(tmp_path / "run") if "Bleu_4" in line][-1]
    assert last["Bleu_4"] == pytest.approx(1)
    assert last["dev_loss"] < 0.1


def test_a_model_starts_from_the_vocabulary_of_another_and_adds_new_words(tiny, tmp_path):
    first = train(tiny(output=tmp_path / "first"), device="cpu")
    old_words = json.loads((first / "vocab.json").read_text())["words"]
    (tmp_path / "photos").mkdir()
    for number, source in enumerate(sorted(tiny().data.train[0].images.iterdir())[:10]):
        (tmp_path / "photos" / f"{number}.png").write_bytes(source.read_bytes())
    lines = [
        {"image": f"photos/{number}.png", "captions": ["a brandnew zeppelin"] * 2}
        for number in range(10)
    ]
    (tmp_path / "captions.jsonl").write_text("\n".join(map(json.dumps, lines)))
    own = tiny(
        data={"train": {"annotations": tmp_path / "captions.jsonl"}, "dev": None},
        training={"batch_size": 4},
    )
    second = train(
        own.model_copy(update={"init": str(first), "output": tmp_path / "second"}), device="cpu"
    )
    words = json.loads((second / "vocab.json").read_text())["words"]
    assert words[: len(old_words)] == old_words
    assert set(words[len(old_words) :]) == {"brandnew", "zeppelin"}


def glove_of(path, size):
    path.write_text(
        "".join(
            f"{word} {' '.join([number] * size)}\n"
            for word, number in (("a", "0.5"), ("zebra", "9"))
        )
    )
    return path


def test_embeddings_start_from_word_vectors_and_those_of_other_words_are_random(
    tiny, tmp_path, capsys
):
    path, captions = (
        glove_of(tmp_path / "glove.txt", 16),
        [Example(1, tmp_path / "1.png", ("a ring", "a ring"))],
    )
    torch.manual_seed(0)
    plain, vocabulary, _ = start_model(tiny(), captions, None)
    torch.manual_seed(0)
    model, *_ = start_model(tiny(training={"glove": path}), captions, None)
    expected = plain.decoder.embedding.weight.clone()
    expected[vocabulary.id_of("a")] = 0.5
    assert torch.equal(model.decoder.embedding.weight, expected)
    assert f"1 of 2 words start from their vectors in {path}" in capsys.readouterr().err.replace(
        "\n", ""
    )


def test_words_with_capitals_start_from_the_vectors_of_lower_case_files(tiny, tmp_path):
    path = glove_of(tmp_path / "glove.txt", 16)
    captions = [Example(1, tmp_path / "1.png", ("A Zebra", "A Zebra"))]
    data = tiny().to_json()["data"] | {"tokenizer": {"kind": "word"}}
    model, vocabulary, _ = start_model(tiny(training={"glove": path}, data=data), captions, None)
    for word, number in (("A", 0.5), ("Zebra", 9)):
        assert set(model.decoder.embedding.weight[vocabulary.id_of(word)].tolist()) == {number}


def test_word_vectors_of_another_size_are_refused_with_the_size_to_set(tiny, tmp_path):
    with pytest.raises(
        UsageError, match=r"vectors of 25 numbers, not of 16: set decoder\.embed_size=25"
    ):
        train(tiny(training={"glove": glove_of(tmp_path / "glove.txt", 25)}), device="cpu")
    with pytest.raises(UsageError, match=r"training\.glove and init both set the first embeddings"):
        train(tiny(training={"glove": tmp_path / "glove.txt"}, init="bundled"), device="cpu")


def test_the_log_has_the_share_of_generated_tokens_at_each_step(tiny, tmp_path):
    sampling = {"schedule": "linear", "share": 0.6}
    phase = {"objective": "scheduled_sampling", "scheduled_sampling": sampling, "epochs": 2}
    train(tiny(training={"phases": [phase]}), device="cpu")
    shares = [line["own_words"] for line in read_log(tmp_path / "run") if "loss" in line]
    assert shares == pytest.approx([0, 0.1, 0.2, 0.3, 0.4, 0.5])


def test_the_log_has_the_mean_reward_of_self_critical_training(tiny, tmp_path):
    train(tiny(training={"phases": [{"objective": "self_critical", "epochs": 1}]}), device="cpu")
    steps = [line for line in read_log(tmp_path / "run") if "learning_rate" in line]
    names = ["step", "self_critical_loss", "learning_rate", "reward"]
    assert [list(line) for line in steps] == [names] * 3


def test_the_losses_of_training_and_dev_are_the_same_measure(tiny, tmp_path, capsys):
    """Train and dev are the same images, and the weights do not change."""
    source = tiny().data.train[0].model_dump()
    encoder = {"trunk": "resnet18", "weights": "none", "image_size": 64}
    config = tiny(
        encoder=encoder,
        data={"train": source, "dev": source, "min_count": 1, "captions_per_image": "all"},
        decoder={"context": "attention", "attention_size": 8, "hidden_size": 16, "dropout": 0.0},
        training={
            "phases": [{"epochs": 1, "learning_rate": 1e-9}],
            "label_smoothing": 0.2,
            "accumulate": 2,
        },
    )
    train(config, device="cpu")
    *steps, validation = read_log(tmp_path / "run")
    mean = sum(line["loss"] for line in steps) / len(steps)
    assert mean == pytest.approx(validation["dev_loss"], rel=0.01)
    # the grid has 4 positions; an untrained decoder gives each a quarter of its attention
    assert all(line["attention_penalty"] > 0.1 for line in steps)
    assert all(line["label_smoothing"] != 0 for line in steps)  # either sign
    (told,) = [line for line in capsys.readouterr().err.splitlines() if "dev loss" in line]
    assert re.search(
        r"loss \d\.\d+ \([+-] label smoothing [\d.e-]+, \+ attention penalty [\d.]+\)  dev loss",
        told,
    )


def test_early_stopping_ends_a_phase_without_better_validations(tiny, tmp_path):
    settings = {"phases": [{"epochs": 30, "learning_rate": 1e-9}], "early_stopping": 2}
    train(tiny(training=settings), device="cpu")
    validations = [line for line in read_log(tmp_path / "run") if "CIDEr" in line]
    assert 3 <= len(validations) < 30


def test_a_later_phase_with_an_unknown_stage_is_refused_before_the_first_step(tiny):
    config = tiny(training={"phases": [{"epochs": 1}, {"finetune_from": "stage6"}]})
    with pytest.raises(UsageError, match="small_cnn has no stage 'stage6'"):
        train(config, device="cpu")
    assert not (config.output / "metrics.jsonl").exists()
