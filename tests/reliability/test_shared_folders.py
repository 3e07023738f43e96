"""Two processes that share an output folder or cached features."""

import json
import os
import signal
import time

import pytest
from trainings import finish, small, start, steps_done

from captioner.errors import UsageError
from captioner.locking import Lock
from captioner.training.checkpoint import checkpoints
from captioner.training.recorder import read_log
from captioner.training.train import train

pytestmark = [pytest.mark.row(35), pytest.mark.timeout(300)]


@pytest.mark.parametrize("resume", [None, "auto"])
def test_a_second_run_in_the_same_folder_is_refused_and_the_first_one_named(
    tiny, tmp_path, monkeypatch, resume
):
    config = small(tiny, training={"max_steps": 1})
    with (
        Lock(config.output / ".lock", what="the first run"),
        pytest.raises(UsageError, match=rf"run is in use by process {os.getpid()} on .*, since"),
    ):
        train(config, device="cpu", resume=resume)
    assert not config.output.exists()
    train(config, device="cpu", resume=resume)
    assert not (config.output / ".lock").exists()


@pytest.mark.slow
def test_of_two_processes_one_trains_and_after_it_was_killed_the_other_resumes(tiny, tmp_path):
    long = {"phases": [{"epochs": 100}], "checkpoint_every": 2, "validate_every": 1000}
    config = small(tiny, training=long)
    run = start(config)
    while not checkpoints(config.output):
        time.sleep(0.1)
    code, stderr = finish(start(config, "--resume", "auto"))
    assert code == 2
    assert f"is in use by process {run.pid} on" in stderr
    run.send_signal(signal.SIGKILL)
    finish(run)
    short = small(tiny, training=long | {"max_steps": steps_done(config.output) + 2})
    code, stderr = finish(start(short, "--resume", "auto"))
    assert code == 0, stderr
    steps = [line["step"] for line in read_log(config.output) if "loss" in line]
    assert steps == list(range(1, len(steps) + 1))


@pytest.mark.slow
def test_runs_that_need_the_same_features_compute_them_once(tiny, tmp_path):
    configs = [
        small(tiny, output=tmp_path / name, training={"max_steps": 1, "phases": [{"epochs": 1}]})
        for name in ("one", "two", "three")
    ]
    said = "".join(finish(run)[1] for run in [start(config) for config in configs])
    assert said.count("computing the features of train, once") == 1
    assert said.count("computing the features of dev, once") == 1
    assert all((config.output / "best").is_dir() for config in configs)
    names = [path.name for path in (tmp_path / "features").iterdir()]
    assert len(names) == 2  # train and dev, and no lock


def test_features_that_another_run_computes_are_waited_for(tiny, tmp_path, monkeypatch, capsys):
    import captioner.training.features as features

    first = small(tiny, output=tmp_path / "a" / "run", training={"max_steps": 1})
    train(first, device="cpu")
    computed = tmp_path / "a" / "features"
    folder = tmp_path / "features"
    keys = [path.name for path in computed.iterdir()]
    locks = [Lock(folder / f".{key}.lock", what="features") for key in keys]
    for lock in locks:
        lock.__enter__()
    real = features._print_wait

    def other_run_ends(holder):
        real(holder)
        for key, lock in zip(keys, locks, strict=True):
            os.rename(computed / key, folder / key)
            lock.__exit__(None, None, None)

    monkeypatch.setattr(features, "_print_wait", other_run_ends)
    capsys.readouterr()
    train(small(tiny, training={"max_steps": 1}), device="cpu")
    said = capsys.readouterr().err
    assert f"waiting for process {os.getpid()} on" in said
    assert "computing the features" not in said
    assert json.loads((folder / keys[0] / "ids.json").read_text())
