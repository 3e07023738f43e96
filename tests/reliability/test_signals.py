"""Ctrl-C and SIGTERM: the run stops after a step, with a checkpoint and a hint how to resume."""

import os
import signal
import time

import pytest
from trainings import finish, outcome, small, start, steps_done

from captioner.training import recorder
from captioner.training.checkpoint import checkpoints
from captioner.training.recorder import Recorder
from captioner.training.train import train
from captioner.training.validation import Validator

pytestmark = pytest.mark.row(9)


def signal_once(monkeypatch, target, method, when, number):
    """Send this process a signal as `method` is called for the `when`-th time."""
    real, calls = getattr(target, method), []

    def signalled(*arguments, **named):
        calls.append(method)
        if len(calls) == when:
            os.kill(os.getpid(), number)
        return real(*arguments, **named)

    monkeypatch.setattr(target, method, signalled)


_unbroken = []


@pytest.fixture
def unbroken(tiny, tmp_path):
    """The outcome of a run without interruptions, computed once."""
    if not _unbroken:
        train(small(tiny, output=tmp_path / "unbroken"), device="cpu")
        _unbroken.append(outcome(tmp_path / "unbroken"))
    return _unbroken[0]


@pytest.mark.parametrize(
    ("target", "method", "when", "step", "number"),
    [
        (Recorder, "step", 2, 2, signal.SIGINT),
        (Recorder, "step", 5, 5, signal.SIGTERM),
        (Validator, "__call__", 1, 3, signal.SIGTERM),
        (Validator, "__call__", 2, 6, signal.SIGINT),
        (recorder, "save_checkpoint", 1, 3, signal.SIGTERM),
    ],
    ids=[
        "in an epoch",
        "in the second phase",
        "in a validation",
        "in the last validation",
        "while saving at the end of a phase",
    ],
)
def test_a_signal_saves_a_checkpoint_and_the_resumed_run_has_the_same_outcome(
    tiny, tmp_path, monkeypatch, capfd, unbroken, target, method, when, step, number
):
    handlers = [signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)]
    with monkeypatch.context() as patch:
        signal_once(patch, target, method, when, number)
        with pytest.raises(SystemExit) as end:
            train(small(tiny), device="cpu")
    assert end.value.code == 128 + number
    assert [signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)] == handlers
    assert checkpoints(tmp_path / "run")[-1].name == f"checkpoint-{step}"
    assert f"stopped after step {step}: resume from checkpoint-{step}\n" in capfd.readouterr().err
    train(small(tiny), device="cpu", resume="auto")
    assert outcome(tmp_path / "run") == unbroken


def test_an_interrupted_validation_is_repeated_first_when_the_run_is_resumed(
    tiny, tmp_path, monkeypatch
):
    every_two = {"validate_every": 2}
    with monkeypatch.context() as patch:
        signal_once(patch, Validator, "__call__", 2, signal.SIGTERM)
        with pytest.raises(SystemExit):
            train(small(tiny, training=every_two), device="cpu")
    train(small(tiny, training=every_two), device="cpu", resume="auto")
    train(small(tiny, training=every_two, output=tmp_path / "unbroken"), device="cpu")
    assert outcome(tmp_path / "run") == outcome(tmp_path / "unbroken")


@pytest.mark.parametrize(
    "settings", [{"validate_every": 4}, {"max_steps": 2}], ids=["validate_every", "max_steps"]
)
def test_a_run_stopped_in_the_validation_after_its_last_step_validates_when_it_is_resumed(
    tiny, tmp_path, monkeypatch, settings
):
    """No step is left to take then: the validation runs outside of any epoch."""
    config = small(tiny, training=settings)
    unbroken = small(tiny, training=settings, output=tmp_path / "unbroken")
    train(unbroken, device="cpu")
    validations = (unbroken.output / "metrics.jsonl").read_text().count('"CIDEr"')
    with monkeypatch.context() as patch:
        signal_once(patch, Validator, "__call__", validations, signal.SIGINT)
        with pytest.raises(SystemExit):
            train(config, device="cpu")
    train(config, device="cpu", resume="auto")
    assert outcome(config.output) == outcome(unbroken.output)


def test_a_second_ctrl_c_stops_at_once(tiny, tmp_path, monkeypatch):
    signal_once(monkeypatch, Recorder, "step", 2, signal.SIGINT)
    signal_once(monkeypatch, recorder, "save_checkpoint", 1, signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        train(small(tiny), device="cpu")
    assert not list((tmp_path / "run").glob("checkpoint-*"))


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("ranks", [1, 2])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_process_or_all_ranks_end_within_half_a_minute_with_one_checkpoint(
    tiny, tmp_path, ranks, number
):
    long = {"phases": [{"epochs": 10_000}], "checkpoint_every": 100_000, "validate_every": 100_000}
    config = small(tiny, training=long | {"cache_features": False, "workers": 1})
    run = start(config, ranks=ranks, start_new_session=True)
    while steps_done(tmp_path / "run") < 3:
        time.sleep(0.1)
    sent = time.monotonic()
    os.killpg(
        run.pid, number
    )  # as a terminal does it: all processes of the group, those that read images too
    code, stderr = finish(run)
    assert time.monotonic() - sent < 30
    assert code == (128 + number if ranks == 1 else 1), (
        stderr
    )  # torchrun answers for its ranks, always with 1
    assert len(checkpoints(tmp_path / "run")) == 1
    saved = checkpoints(tmp_path / "run")[0].name
    assert stderr.count(f"resume from {saved}\n") == 1
    assert steps_done(tmp_path / "run") == int(saved.removeprefix("checkpoint-"))
