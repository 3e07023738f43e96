"""A run is resumed with other data or settings than those of its checkpoint."""

import json
import os
import random
import signal
import threading
import time

import pytest
import torch
from trainings import small

from captioner.config.schema import DecodingConfig
from captioner.data.batching import EpochBatchSampler
from captioner.errors import UsageError
from captioner.training.checkpoint import Progress, checkpoints, load_checkpoint
from captioner.training.provenance import adapt_progress
from captioner.training.recorder import Recorder, read_log
from captioner.training.train import train

pytestmark = [pytest.mark.row(34), pytest.mark.timeout(120)]  # without an end, training would spin
TWO_EPOCHS = {"phases": [{"epochs": 2}], "validate_every": 100, "keep_checkpoints": 100}


def few(source, folder, count, *, word=None):
    """Return a source with its first images only, and their captions with another word."""
    content = json.loads(source.annotations.read_text())
    content["images"] = content["images"][:count]
    ids = {image["id"] for image in content["images"]}
    notes = [note for note in content["annotations"] if note["image_id"] in ids]
    content["annotations"] = [
        note | {"caption": f"{word} {note['caption']}" if word else note["caption"]}
        for note in notes
    ]
    path = folder / f"{count}{word or ''}.json"
    path.write_text(json.dumps(content))
    return {"annotations": path, "images": source.images}


def steps(output):
    return [line["step"] for line in read_log(output) if "loss" in line]


def rows_of(batch_size, first):
    """Return the rows of an epoch of 24 images from a batch on."""
    sampler = EpochBatchSampler(24, batch_size, seed=0)
    sampler.first_batch = first
    return [row for batch in sampler for _, row in batch]


@pytest.mark.parametrize(
    ("stop", "size", "place", "repeated", "total"),
    [
        # two of three batches of 8 are 16 images: none of one batch of 24, so all are used again
        (2, 24, "after batch 0 of 1", 16, 2 + 1 + 1),
        # two of three batches of 8 are four of six batches of 4, exactly
        (2, 4, "after batch 4 of 6", 0, 2 + 2 + 6),
        # one of three batches of 8 is less than one of two batches of 12
        (1, 12, "after batch 0 of 2", 8, 1 + 2 + 2),
    ],
)
def test_with_another_batch_size_the_epoch_continues_at_its_place_and_ends(
    tiny, tmp_path, capsys, stop, size, place, repeated, total
):
    train(small(tiny, training=TWO_EPOCHS | {"max_steps": stop}), device="cpu")
    train(small(tiny, training=TWO_EPOCHS | {"batch_size": size}), device="cpu", resume="auto")
    said = capsys.readouterr().err
    assert f"training.batch_size 8 -> {size}" in said
    repeats = f", so {repeated} of its examples are used twice" if repeated else ""
    assert f"the epoch continues {place}{repeats}\n" in said
    assert steps(tmp_path / "run") == list(range(1, total + 1))


def test_the_place_is_that_of_the_examples_that_are_left():
    done = set(range(24)) - set(rows_of(8, 2))
    assert set(rows_of(4, 4)).isdisjoint(done)
    assert len(set(rows_of(4, 4)) | done) == 24


def test_with_fewer_images_the_epoch_ends_and_the_change_is_told(tiny, tmp_path, capsys):
    train(small(tiny, training=TWO_EPOCHS | {"max_steps": 2}), device="cpu")
    data = {"train": few(tiny().data.train[0], tmp_path, 8), "dev": tiny().data.dev[0].model_dump()}
    train(
        small(tiny, data=data | {"min_count": 1}, training=TWO_EPOCHS), device="cpu", resume="auto"
    )
    said = capsys.readouterr().err
    assert "what to learn from differs from that of the checkpoint" in said
    assert "continues after batch 0 of 1, so some of its examples are used twice" in said
    assert steps(tmp_path / "run") == [1, 2, 3, 4]  # one for the rest of the epoch, one more


@pytest.mark.parametrize("seed", [0, 1])
def test_another_seed_is_told(tiny, capsys, seed):
    train(small(tiny, training=TWO_EPOCHS | {"max_steps": 2}), device="cpu")
    train(small(tiny, training=TWO_EPOCHS | {"seed": seed}), device="cpu", resume="auto")
    said = capsys.readouterr().err
    assert ("changed since the checkpoint: training.seed 0 -> 1" in said) == (seed == 1)
    assert ("so some of its examples are used twice" in said) == (seed == 1)


def test_a_setting_of_the_vocabulary_is_said_to_have_no_effect(tiny, tmp_path, capsys):
    train(small(tiny, training={"max_steps": 2}), device="cpu")
    words = (tmp_path / "run" / "checkpoint-2" / "vocab.json").read_bytes()
    data = {
        split: {"annotations": each.annotations, "images": each.images}
        for split, each in (("train", tiny().data.train[0]), ("dev", tiny().data.dev[0]))
    }
    more = small(tiny, data=data | {"min_count": 20}, training={"max_steps": 4})
    train(more, device="cpu", resume="auto")
    assert "without effect on a resumed run: data.min_count 1 -> 20" in capsys.readouterr().err
    assert (tmp_path / "run" / "checkpoint-4" / "vocab.json").read_bytes() == words


def test_nothing_is_told_of_what_changes_no_step(tiny, tmp_path, capsys):
    train(small(tiny, training={"max_steps": 2}), device="cpu")
    elsewhere = tmp_path / "moved"
    os.symlink(tiny().data.train[0].images.parent, elsewhere)
    data = {
        split: {"annotations": elsewhere / f"captions_{split}.json", "images": elsewhere / split}
        for split in ("train", "dev")
    }
    free = {"max_steps": 4, "keep_checkpoints": 3, "workers": 1, "checkpoint_every": 1}
    capsys.readouterr()
    train(small(tiny, data=data | {"min_count": 1}, training=free), device="cpu", resume="auto")
    said = capsys.readouterr().err
    assert "changed" not in said
    assert "differs" not in said
    assert "effect" not in said


@pytest.mark.parametrize("change", ["dev", "validation_beam"])
def test_scores_of_other_images_or_searches_are_not_compared(tiny, tmp_path, capsys, change):
    settings = {"phases": [{"epochs": 4}], "max_steps": 3, "keep_checkpoints": 100}
    train(small(tiny, training=settings), device="cpu")
    perfect = checkpoints(tmp_path / "run")[-1] / "training.pt"
    content = torch.load(perfect, weights_only=True)
    content["progress"]["best"] = 99.0  # no caption of the new dev reaches it
    torch.save(content, perfect)
    checksums = perfect.with_name("checksums.json")
    names = json.loads(checksums.read_text())
    del names["training.pt"]
    checksums.write_text(json.dumps(names))
    data = {"train": tiny().data.train[0].model_dump(), "dev": tiny().data.dev[0].model_dump()}
    settings["max_steps"] = 6
    if change == "dev":
        data["dev"] = few(tiny().data.dev[0], tmp_path, 4)
    else:
        settings["validation_beam"] = 2
    train(small(tiny, data=data | {"min_count": 1}, training=settings), device="cpu", resume="auto")
    said = capsys.readouterr().err
    assert "has changed, so scores are not compared with earlier ones" in said
    assert load_checkpoint(checkpoints(tmp_path / "run")[-1]).progress.best_score < 99


def saved(*, rows=24, batch_size=8, **settings):
    """Return the provenance of a run of one phase, with settings that differ from the defaults."""
    settings = {name.replace("__", "."): value for name, value in settings.items()}
    settings = {"training.seed": 0, "training.batch_size": batch_size} | settings
    batches = -(-rows // batch_size)
    parts = {"train": "t", "dev": "d", "rows": [rows], "batches": [batches]}
    return {"settings": settings} | parts


@pytest.mark.parametrize("name", list(DecodingConfig.model_fields))
def test_only_what_the_search_of_a_validation_uses_makes_its_scores_new(name):
    progress = Progress(best_score=0.9)
    before, after = (saved(**{f"decoding__{name}": value}) for value in ("one", "other"))
    adapt_progress(progress, before, after)
    replaced = ("method", "captions", "beam", "replace_unknown")  # in `trainer._build_search`
    unused = ("temperature", "top_k", "top_p", "seed", "min_confidence")
    assert progress.best_score == (0.9 if name in replaced + unused else -1)


def test_with_other_beams_for_captioning_the_best_model_stays_the_best(tiny, tmp_path, capsys):
    settings = {"phases": [{"epochs": 4}], "max_steps": 3}
    train(small(tiny, training=settings), device="cpu")
    best = load_checkpoint(checkpoints(tmp_path / "run")[-1]).progress.best_score
    train(small(tiny, training=settings, decoding={"beam": 5}), device="cpu", resume="auto")
    said = capsys.readouterr().err
    assert "changed since the checkpoint: decoding.beam 3 -> 5" in said
    assert "compare" not in said
    assert load_checkpoint(checkpoints(tmp_path / "run")[-1]).progress.best_score == best


def text_rows(batch_size, first):
    """Return the rows of an epoch of 1,000 texts from a batch on."""
    lengths = [random.Random(row).randint(3, 30) for row in range(1_000)]
    sampler = EpochBatchSampler(1_000, batch_size, seed=0, lengths=lengths)
    sampler.first_batch = first
    return {row for batch in sampler for _, row in batch}


def test_texts_in_batches_of_another_size_are_said_to_have_another_order():
    done = set(range(1_000)) - text_rows(8, 60)
    assert text_rows(4, 120) & done  # although 60 of 125 batches are 120 of 250
    assert text_rows(4, 120) | done != set(range(1_000))
    progress = Progress(batch=60)
    before, after = (saved(rows=1_000, batch_size=size, encoder__kind="text") for size in (8, 4))
    *_, told = adapt_progress(progress, before, after)
    assert progress.batch == 120
    assert told == (
        "the epoch continues after batch 120 of 250, so some of its examples are used twice, and "
        "others are left out"
    )


@pytest.mark.parametrize(("batch", "moved"), [(0, 0), (3, 6)])
def test_between_two_epochs_nothing_is_said_of_a_place(batch, moved):
    progress = Progress(batch=batch)
    told = adapt_progress(progress, saved(), saved(batch_size=4, training__seed=1))
    assert progress.batch == moved
    assert "epoch" not in " ".join(told)


@pytest.mark.parametrize(("batch", "is_done"), [(2, False), (3, True), (40, True)])
def test_a_checkpoint_of_an_older_version_may_be_of_a_finished_epoch(batch, is_done):
    (told,) = adapt_progress(Progress(batch=batch), {}, saved())
    assert told.endswith(", and its epoch counts as done") == is_done


def test_a_checkpoint_of_an_older_version_is_resumed_without_a_comparison(tiny, tmp_path, capsys):
    train(small(tiny, training={"max_steps": 2}), device="cpu")
    state = checkpoints(tmp_path / "run")[-1] / "training.pt"
    content = torch.load(state, weights_only=True)
    del content["provenance"]
    torch.save(content, state)
    checksums = state.with_name("checksums.json")
    names = json.loads(checksums.read_text())
    del names["training.pt"]
    checksums.write_text(json.dumps(names))
    train(small(tiny, training={"batch_size": 24}), device="cpu", resume="auto")
    expected = "the checkpoint is of an older version: its data and settings cannot be compared"
    assert f"{expected}, and its epoch counts as done\n" in capsys.readouterr().err
    assert steps(tmp_path / "run")[:2] == [1, 2]


def test_a_checkpoint_of_another_folder_never_replaces_the_run_of_this_one(tiny, tmp_path):
    one, two = (
        small(tiny, output=tmp_path / name, training={"max_steps": steps})
        for name, steps in (("one", 1), ("two", 3))
    )
    for config in (one, two):
        train(config, device="cpu")
    with pytest.raises(UsageError, match="already contains a run"):
        train(two, device="cpu", resume=str(one.output / "checkpoint-1"))
    assert checkpoints(two.output)


def test_a_run_that_continues_in_another_folder_has_a_best_model_there(tiny, tmp_path):
    first = small(tiny, output=tmp_path / "one")
    train(first, device="cpu")
    last = str(checkpoints(first.output)[-1])
    best = train(small(tiny, output=tmp_path / "two"), device="cpu", resume=last)
    assert (best / "model.safetensors").exists()


def test_the_micro_batches_of_a_larger_batch_are_not_kept(tiny, tmp_path):
    """The checkpoint has four micro-batches; a batch of three images has none for the fourth."""
    settings = TWO_EPOCHS | {"accumulate": "auto"}
    train(small(tiny, training=settings | {"max_steps": 2}), device="cpu")
    state = checkpoints(tmp_path / "run")[-1] / "training.pt"
    content = torch.load(state, weights_only=True)
    content["progress"]["parts"] = 4
    torch.save(content, state)
    checksums = state.with_name("checksums.json")
    names = json.loads(checksums.read_text())
    del names["training.pt"]
    checksums.write_text(json.dumps(names))
    train(small(tiny, training=settings | {"batch_size": 3}), device="cpu", resume="auto")
    assert steps(tmp_path / "run")[-1] == 2 + 3 + 8  # 16 of 24 images are five of eight batches


def test_sigterm_ends_a_run_that_takes_no_steps(tiny, monkeypatch):
    """The sampler yields nothing, as it did after a checkpoint beyond the end of the epoch."""
    monkeypatch.setattr(EpochBatchSampler, "__iter__", lambda self: iter(()))
    asked = []

    def terminate(self, *args, **named):
        if not asked:
            asked.append(True)
            threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGTERM)).start()
        return real(self, *args, **named)

    real = Recorder.epoch
    monkeypatch.setattr(Recorder, "epoch", terminate)
    started = time.monotonic()
    config = small(tiny, training={"phases": [{"epochs": 10}], "validate_every": 1})
    with pytest.raises(SystemExit) as end:
        train(config, device="cpu")
    assert end.value.code == 128 + signal.SIGTERM
    assert time.monotonic() - started < 60


def test_another_source_is_checked_for_unreadable_images_when_resumed(tiny, tmp_path):
    """skipped.json has no record of it."""
    data = {"train": tiny().data.train[0].model_dump(), "dev": tiny().data.dev[0].model_dump()}
    skip = {"on_bad_image": "skip", "min_count": 1}
    train(small(tiny, data=data | skip, training={"max_steps": 2}), device="cpu")
    more = few(tiny().data.train[0], tmp_path, 4) | {"name": "more"}
    data["train"] = [data["train"] | {"name": "train"}, more]
    train(small(tiny, data=data | skip, training={"max_steps": 4}), device="cpu", resume="auto")
    skipped = json.loads((tmp_path / "run" / "skipped.json").read_text())
    assert {"train/train", "train/more", "dev"} <= set(skipped)
