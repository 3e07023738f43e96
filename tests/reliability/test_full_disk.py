"""A disk that is full, read-only or too small: the error names it, and saved files stay."""

import collections
import errno
import os
import resource
import shutil
from contextlib import contextmanager
from pathlib import Path

import pytest
from trainings import outcome, small

from captioner.errors import CaptionerError
from captioner.storage import atomic_folder, verify_checksums
from captioner.training import recorder
from captioner.training.checkpoint import checkpoints
from captioner.training.features import _HOST
from captioner.training.train import train

pytestmark = pytest.mark.row(5)


@contextmanager
def files_of_at_most(size):
    """Fail writes beyond this size of a file, as a full disk would."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize(
    ("limit", "file"),
    [(2**20, "the model"), (8 * 2**20, "the optimizer's state")],
    ids=["weights", "optimizer"],
)
def test_a_checkpoint_that_does_not_fit_on_the_disk_is_named_and_the_one_before_is_kept(
    tiny, tmp_path, monkeypatch, limit, file
):
    """The model takes 6 MiB, and the state of its optimizer more."""
    real, saves = recorder.save_checkpoint, []

    def save(*arguments, **named):
        saves.append(arguments)
        with files_of_at_most(limit if len(saves) == 3 else resource.RLIM_INFINITY):
            real(*arguments, **named)

    config = small(
        tiny, training={"phases": [{"epochs": 2, "finetune_from": "stem"}], "checkpoint_every": 1}
    )
    message = r"checkpoint-3 cannot be written: .*File too large.*\d+ MiB free"
    with monkeypatch.context() as patch:
        patch.setattr(recorder, "save_checkpoint", save)
        with pytest.raises(CaptionerError, match=message) as error:
            train(config, device="cpu")
    assert error.value.exit_code == 1
    assert [path.name for path in checkpoints(tmp_path / "run")] == ["checkpoint-1", "checkpoint-2"]
    assert not list((tmp_path / "run").glob("*.captioner-tmp"))
    train(config, device="cpu", resume="auto")
    unbroken = config.model_copy(update={"output": tmp_path / "unbroken"})
    train(unbroken, device="cpu")
    assert outcome(config.output) == outcome(unbroken.output)


def test_features_that_do_not_fit_on_the_disk_leave_nothing_behind(tiny, tmp_path):
    message = r"features cannot be written to .*File too large"
    with pytest.raises(CaptionerError, match=message), files_of_at_most(8000):
        train(small(tiny), device="cpu")
    assert not list((tmp_path / "features").glob("*"))


def test_unfinished_features_of_killed_runs_are_removed_and_those_of_running_ones_are_not(
    tiny, tmp_path
):
    gone = max(int(line) for line in Path("/proc/sys/kernel/pid_max").read_text().split()) + 1
    (tmp_path / "features" / f"x{_HOST}{gone}.tmp").mkdir(parents=True)
    (tmp_path / "features" / f"x{_HOST}{os.getppid()}.tmp").mkdir()
    train(small(tiny), device="cpu")
    left = [path.name for path in (tmp_path / "features").glob("*.tmp")]
    assert left == [f"x{_HOST}{os.getppid()}.tmp"]


def test_a_run_whose_checkpoints_would_not_fit_is_refused_before_its_first_step(
    tiny, tmp_path, monkeypatch
):
    usage = collections.namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(2**40, 0, 60 * 2**20))
    with pytest.raises(
        CaptionerError,
        match=r"100 checkpoints .* take [\d,]+ MiB, and 60 are free: .*keep_checkpoints",
    ):
        train(small(tiny), device="cpu")
    assert (tmp_path / "run" / "metrics.jsonl").read_text() == ""
    train(small(tiny, output=tmp_path / "two", training={"keep_checkpoints": 1}), device="cpu")


def test_a_read_only_disk_is_named(tiny, tmp_path, monkeypatch):
    def refuse(self, *arguments, **named):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(self))

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(CaptionerError, match=r"run: Read-only file system \(\d+ MiB free") as error:
        train(small(tiny), device="cpu")
    assert error.value.exit_code == 1


def test_a_checkpoint_that_cannot_take_its_name_leaves_the_one_that_has_it(
    tiny, tmp_path, monkeypatch
):
    config = small(tiny, training={"max_steps": 1})
    train(config, device="cpu")
    real = Path.rename

    def refuse(self, target):
        if self.suffix == ".captioner-tmp":
            raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))
        return real(self, target)

    monkeypatch.setattr(Path, "rename", refuse)
    with (
        pytest.raises(CaptionerError, match="best cannot be written: Disk quota exceeded"),
        atomic_folder(tmp_path / "run" / "best"),
    ):
        pass
    verify_checksums(tmp_path / "run" / "best")
