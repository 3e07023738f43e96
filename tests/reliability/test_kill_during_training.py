"""A run that is killed at any moment: the resumed run has the same outcome."""

import random
import shutil
import signal
import time
from pathlib import Path

import pytest
from trainings import PHASES, finish, outcome, small, start, steps_done

from captioner.models.folder import load_config
from captioner.training.checkpoint import checkpoints
from captioner.training.train import train


@pytest.mark.row(1)
@pytest.mark.parametrize(("stop", "ema"), [(2, 0.0), (3, 0.9), (4, 0.9)])
def test_a_resumed_run_has_the_outcome_of_an_unbroken_one(tiny, tmp_path, stop, ema):
    """It stops within an epoch, at the end of a phase and in the next one; with and without EMA."""
    unbroken, broken = (
        small(tiny, output=tmp_path / name, training={"checkpoint_every": 1, "ema": ema})
        for name in ("unbroken", "broken")
    )
    train(unbroken, device="cpu")
    shutil.copytree(unbroken.output, broken.output)
    for checkpoint in checkpoints(broken.output):
        if int(checkpoint.name.removeprefix("checkpoint-")) > stop:
            shutil.rmtree(checkpoint)
    train(broken, device="cpu", resume="auto")
    assert outcome(unbroken.output) == outcome(broken.output)


@pytest.mark.row(2)
def test_the_number_of_workers_may_change_within_a_run_without_changing_its_outcome(tiny, tmp_path):
    settings = {"cache_features": False, "phases": [PHASES[1] | {"epochs": 2}]}
    for name, changes in (("unbroken", [(0, None)]), ("changing", [(0, 2), (1, 4), (2, None)])):
        for workers, stop in changes:
            more = {
                "workers": workers,
                "max_steps": stop,
                "checkpoint_every": 1,
                "validate_every": 100,
            }
            train(
                small(tiny, output=tmp_path / name, training=settings | more),
                device="cpu",
                resume="auto",
            )
    assert outcome(tmp_path / "unbroken")[1:3] == outcome(tmp_path / "changing")[1:3]


def assert_twenty_kills_change_nothing(unbroken, broken, *, steps):
    """Kill one run at random moments, and compare its outcome with that of the other."""
    assert finish(start(unbroken), timeout=1500)[0] == 0
    rng = random.Random(0)
    for moment in sorted(rng.sample(range(1, steps - 3), 20)):
        run = start(broken, "--resume", "auto")
        while steps_done(broken.output) < moment and run.poll() is None:
            time.sleep(0.005)
        time.sleep(rng.uniform(0, 0.02))
        run.send_signal(signal.SIGKILL)
        assert finish(run)[0] == -signal.SIGKILL
    assert finish(start(broken, "--resume", "auto"))[0] == 0
    assert outcome(unbroken.output) == outcome(broken.output)
    names = [path.name for path in broken.output.iterdir()]
    assert not [name for name in names if name.endswith((".captioner-tmp", ".captioner-old"))]


@pytest.mark.slow
@pytest.mark.row(1)
@pytest.mark.timeout(1800)
def test_twenty_kills_end_with_the_unbroken_runs_log_and_weights(tiny, tmp_path):
    settings = {
        "phases": [{"epochs": 20}, PHASES[1] | {"epochs": 8}],
        "checkpoint_every": 2,
        "keep_checkpoints": 2,
    }
    runs = [
        small(tiny, output=tmp_path / name, training=settings | {"workers": 1})
        for name in ("unbroken", "broken")
    ]
    assert_twenty_kills_change_nothing(*runs, steps=84)


@pytest.mark.slow
@pytest.mark.data
@pytest.mark.row(1)
@pytest.mark.timeout(3600)
def test_twenty_kills_of_a_run_on_flickr8k_change_nothing(research_data, tmp_path):
    photos = research_data / "flickr8k"
    settings = [
        f"data.train.annotations={photos / 'captions_train.json'}",
        f"data.dev.annotations={photos / 'captions_dev.json'}",
        f"encoder.weights={research_data / 'weights' / 'resnet18.pth'}",
        "training.max_steps=300",
        "training.checkpoint_every=10",
        "training.validate_every=100",
    ]
    file = Path(__file__).parents[2] / "configs" / "flickr8k.yaml"
    runs = [
        load_config(file, [*settings, f"output={tmp_path / name}"])
        for name in ("unbroken", "broken")
    ]
    assert_twenty_kills_change_nothing(*runs, steps=300)
