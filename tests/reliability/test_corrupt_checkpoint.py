"""A corrupt checkpoint: `auto` reports it and resumes from the one before."""

import pytest
from trainings import outcome, small

from captioner.errors import CaptionerError
from captioner.storage import verify_checksums
from captioner.training.checkpoint import checkpoints
from captioner.training.train import train

pytestmark = pytest.mark.row(6)


def flip(file):
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def truncate(file):
    file.write_bytes(file.read_bytes()[:-1])


@pytest.fixture
def finished(tiny):
    """A complete run, with a checkpoint of each step."""
    config = small(tiny, training={"checkpoint_every": 1})
    train(config, device="cpu")
    return config


@pytest.mark.parametrize(
    ("damage", "name"), [(flip, "model.safetensors"), (truncate, "training.pt")]
)
def test_auto_reports_it_and_resumes_from_the_one_before(finished, capsys, damage, name):
    before = outcome(finished.output)
    damage(finished.output / "checkpoint-6" / name)
    train(finished, device="cpu", resume="auto")
    stderr = capsys.readouterr().err
    assert f"checkpoint-6/{name} is corrupt" in stderr
    assert f"resuming from {finished.output / 'checkpoint-5'}" in stderr
    assert outcome(finished.output) == before
    verify_checksums(finished.output / "checkpoint-6")


def test_a_corrupt_checkpoint_that_is_named_is_refused(finished):
    flip(finished.output / "checkpoint-6" / "training.pt")
    with pytest.raises(CaptionerError, match=r"checkpoint-6/training\.pt is corrupt"):
        train(finished, device="cpu", resume=str(finished.output / "checkpoint-6"))


@pytest.mark.parametrize("keep", [1, 2])
def test_corrupt_checkpoints_do_not_count_among_those_to_keep(finished, keep):
    """The corrupt ones have the highest step numbers."""
    for step in (5, 6):
        flip(finished.output / f"checkpoint-{step}" / "training.pt")
    settings = finished.training.model_copy(update={"keep_checkpoints": keep, "max_steps": 5})
    train(finished.model_copy(update={"training": settings}), device="cpu", resume="auto")
    kept = checkpoints(finished.output)
    assert [path.name for path in kept] == [f"checkpoint-{step}" for step in range(6 - keep, 6)]
    for path in kept:
        verify_checksums(path)


def test_resuming_from_an_earlier_one_replaces_the_later_ones(finished):
    before = outcome(finished.output)
    train(finished, device="cpu", resume=str(finished.output / "checkpoint-2"))
    assert outcome(finished.output) == before


def test_the_newest_checkpoints_and_the_best_model_are_kept(tiny, tmp_path):
    train(small(tiny, training={"checkpoint_every": 1, "keep_checkpoints": 3}), device="cpu")
    assert [path.name for path in checkpoints(tmp_path / "run")] == [
        "checkpoint-4",
        "checkpoint-5",
        "checkpoint-6",
    ]
    verify_checksums(tmp_path / "run" / "best")
