"""The newest checkpoint has changed since it was written: that is told, and the one before is taken."""

import pytest
from trainings import outcome, small

from captioner.errors import CaptionerError
from captioner.storage import verify
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
    """A run that was finished, with a checkpoint of each step."""
    config = small(tiny, training={"checkpoint_every": 1})
    train(config, device="cpu")
    return config


@pytest.mark.parametrize(
    ("damage", "name"), [(flip, "model.safetensors"), (truncate, "training.pt")]
)
def test_auto_names_it_and_goes_on_from_the_one_before(finished, capsys, damage, name):
    before = outcome(finished.output)
    damage(finished.output / "checkpoint-6" / name)
    train(finished, device="cpu", resume="auto")
    said = capsys.readouterr().err
    assert f"checkpoint-6/{name} is corrupt" in said
    assert f"going on from {finished.output / 'checkpoint-5'}" in said
    assert outcome(finished.output) == before
    verify(finished.output / "checkpoint-6")


def test_a_checkpoint_that_is_asked_for_by_name_must_be_sound(finished):
    flip(finished.output / "checkpoint-6" / "training.pt")
    with pytest.raises(CaptionerError, match=r"checkpoint-6/training\.pt is corrupt"):
        train(finished, device="cpu", resume=str(finished.output / "checkpoint-6"))


@pytest.mark.parametrize("keep", [1, 2])
def test_a_corrupt_one_never_displaces_the_sound_ones(finished, keep):
    """The corrupt ones have the highest numbers, but are neither the newest nor of any use."""
    for step in (5, 6):
        flip(finished.output / f"checkpoint-{step}" / "training.pt")
    settings = finished.training.model_copy(update={"keep_checkpoints": keep, "max_steps": 5})
    train(finished.model_copy(update={"training": settings}), device="cpu", resume="auto")
    kept = checkpoints(finished.output)
    assert [path.name for path in kept] == [f"checkpoint-{step}" for step in range(6 - keep, 6)]
    for path in kept:
        verify(path)


def test_going_on_from_an_earlier_one_ends_the_course_of_the_later_ones(finished):
    before = outcome(finished.output)
    train(finished, device="cpu", resume=str(finished.output / "checkpoint-2"))
    assert outcome(finished.output) == before


def test_only_the_newest_are_kept_and_the_best_model_always(tiny, tmp_path):
    train(small(tiny, training={"checkpoint_every": 1, "keep_checkpoints": 3}), device="cpu")
    assert [path.name for path in checkpoints(tmp_path / "run")] == [
        "checkpoint-4",
        "checkpoint-5",
        "checkpoint-6",
    ]
    verify(tmp_path / "run" / "best")
