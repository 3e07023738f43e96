"""Ctrl-C and SIGTERM: the run stops at a step's end, with a checkpoint, and says how to go on."""

import os
import signal
import time

import pytest
from trainings import finish, outcome, small, start, steps_done

from captioner.training import recorder as recording
from captioner.training.checkpoint import checkpoints
from captioner.training.recorder import Recorder
from captioner.training.train import train
from captioner.training.validation import Validator

pytestmark = pytest.mark.row(9)


def signal_once(monkeypatch, place, method, when, number):
    """Send this process a signal as `method` is called for the `when`-th time."""
    real, calls = getattr(place, method), []

    def signalled(*arguments, **named):
        calls.append(method)
        if len(calls) == when:
            os.kill(os.getpid(), number)
        return real(*arguments, **named)

    monkeypatch.setattr(place, method, signalled)


_unbroken = []


@pytest.fixture
def unbroken(tiny, tmp_path):
    """What a run that nobody disturbed leaves, made once."""
    if not _unbroken:
        train(small(tiny, output=tmp_path / "unbroken"), device="cpu")
        _unbroken.append(outcome(tmp_path / "unbroken"))
    return _unbroken[0]


@pytest.mark.parametrize(
    ("place", "method", "when", "step", "number"),
    [
        (Recorder, "step", 2, 2, signal.SIGINT),
        (Recorder, "step", 5, 5, signal.SIGTERM),
        (Validator, "__call__", 1, 3, signal.SIGTERM),
        (Validator, "__call__", 2, 6, signal.SIGINT),
        (recording, "save_checkpoint", 1, 3, signal.SIGTERM),
    ],
    ids=[
        "in an epoch",
        "in the second phase",
        "in a validation",
        "in the last validation",
        "while saving at the end of a phase",
    ],
)
def test_a_signal_saves_a_checkpoint_and_the_run_goes_on_as_if_there_had_been_none(
    tiny, tmp_path, monkeypatch, capfd, unbroken, place, method, when, step, number
):
    handlers = [signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)]
    with monkeypatch.context() as patch:
        signal_once(patch, place, method, when, number)
        with pytest.raises(SystemExit) as end:
            train(small(tiny), device="cpu")
    assert end.value.code == 128 + number
    assert [signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)] == handlers
    assert checkpoints(tmp_path / "run")[-1].name == f"checkpoint-{step}"
    assert f"go on from checkpoint-{step} with --resume auto" in capfd.readouterr().err
    train(small(tiny), device="cpu", resume="auto")
    assert outcome(tmp_path / "run") == unbroken


def test_a_validation_between_steps_that_was_given_up_is_done_first_when_the_run_goes_on(
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


def test_a_second_ctrl_c_stops_at_once(tiny, tmp_path, monkeypatch):
    signal_once(monkeypatch, Recorder, "step", 2, signal.SIGINT)
    signal_once(monkeypatch, recording, "save_checkpoint", 1, signal.SIGINT)
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
    code, said = finish(run)
    assert time.monotonic() - sent < 30
    assert code == (128 + number if ranks == 1 else 1), (
        said
    )  # torchrun answers for its ranks, always with 1
    assert len(checkpoints(tmp_path / "run")) == 1
    saved = checkpoints(tmp_path / "run")[0].name
    assert said.count(f"go on from {saved} with --resume auto") == 1
    assert steps_done(tmp_path / "run") == int(saved.removeprefix("checkpoint-"))
