"""The pool runs tasks in other processes, and reports their errors."""

import math
import os
import time

import pytest

from captioner.config.loading import read_yaml
from captioner.errors import CaptionerError, UsageError
from experiments.pool import run_all


def test_a_task_that_fails_does_not_stop_the_others(
    tmp_path,
):
    (tmp_path / "good.yaml").write_text("a: 1")
    tasks = [tmp_path / "missing.yaml", tmp_path / "good.yaml"]
    outcomes = dict(run_all(read_yaml, tasks, jobs=2))
    assert outcomes[tasks[1]] == {"a": 1}
    assert isinstance(outcomes[tasks[0]], UsageError)


def test_a_bug_is_raised():
    with pytest.raises(ValueError, match="invalid literal"):
        list(run_all(int, ["one"], jobs=1))


def test_a_killed_process_is_reported_in_one_line():
    with pytest.raises(CaptionerError, match="start again with fewer --jobs"):
        list(run_all(os._exit, [1], jobs=1))


def test_no_task_starts_after_the_time_limit():
    assert list(run_all(math.sqrt, [1.0, 4.0], jobs=1, until=time.monotonic())) == []
