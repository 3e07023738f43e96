"""`captioner train` after Ctrl-C: how to resume, in terms of the command line."""

import json
import os
import signal

import pytest

from captioner.training.recorder import Recorder

HINT = "captioner: resume with --resume auto\n"


@pytest.fixture
def interrupted(run, tiny, tmp_path, monkeypatch):
    """Train on the command line, send signals in the second step; return exit code and stderr."""

    def train(*signals):
        real, steps = Recorder.step, []

        def step(*arguments, **named):
            steps.append(1)
            for number in signals if len(steps) == 2 else ():
                os.kill(os.getpid(), number)
            return real(*arguments, **named)

        monkeypatch.setattr(Recorder, "step", step)
        (tmp_path / "tiny.yaml").write_text(json.dumps(tiny().to_json()))
        code, out, err = run("train", tmp_path / "tiny.yaml", "--device", "cpu")
        assert out == ""
        return code, err

    return train


def test_after_ctrl_c_the_option_that_resumes_is_named(interrupted):
    code, err = interrupted(signal.SIGINT)
    assert code == 130
    assert "stopped after step 2: resume from checkpoint-2\n" in err
    assert err.count(HINT) == 1


def test_without_a_checkpoint_no_option_is_named(interrupted):
    code, err = interrupted(signal.SIGINT, signal.SIGINT)
    assert code == 130
    assert "there is no checkpoint yet: start again" in err
    assert "--resume" not in err


def test_only_the_first_rank_names_the_option(interrupted, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    code, err = interrupted(signal.SIGTERM)
    assert code == 143
    assert "--resume" not in err
