"""Progress of long work: numbers by hand from a clock that the test moves."""

import io
import json
import sys

import pytest
from rich.console import Console

from captioner import progress as module
from captioner.console import console
from captioner.errors import ImageError
from captioner.progress import Progress, messages_as_json, skip_unreadable, track


class Clock:
    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


def test_speed_and_time_left_count_what_this_run_has_done(clock):
    with Progress("captioning", total=1000, clock=clock) as progress:
        progress.skip(500)
        clock.now += 10
        progress.advance(40)
        progress.advance(10, failed=True)
        assert progress.values() == {
            **{"done": 550, "total": 1000, "failed": 10},
            **{"images_per_second": 5.0, "seconds_left": 90},  # 450 left at 50 in 10 seconds
        }
        assert progress.line() == "550 of 1,000 images, 5 a second, 0:01:30 left, 10 failed"


def test_without_a_total_there_is_no_time_left(clock):
    with Progress("captioning", clock=clock) as progress:
        clock.now += 2
        progress.advance()
        assert progress.values()["seconds_left"] is None
        assert progress.line() == "1 images, 0.5 a second"


def test_before_any_time_has_passed_the_speed_is_0(clock):
    with Progress("captioning", total=9, clock=clock) as progress:
        progress.advance()
        assert (progress.per_second, progress.seconds_left) == (0.0, None)


def test_a_line_on_stderr_now_and_then_and_none_of_short_work(clock, capsys):
    with Progress("captioning", clock=clock) as progress:
        shown = []
        for second in range(1, 101):
            clock.now += 1
            progress.advance()
            if capsys.readouterr().err:
                shown.append(second)
    assert shown == [10, 40, 70, 100]


def test_json_lines_every_five_seconds_and_at_the_end(clock, capsys):
    with Progress("captioning", total=12, json_lines=True, clock=clock) as progress:
        for _ in range(12):
            clock.now += 1
            progress.advance()
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert [line["done"] for line in lines] == [5, 10, 12]
    assert lines[0] == {
        **{"done": 5, "total": 12, "failed": 0, "images_per_second": 1.0, "seconds_left": 7}
    }


def test_on_a_terminal_a_bar_appears_after_two_seconds(clock, monkeypatch):
    terminal = Console(file=io.StringIO(), force_terminal=True, width=120)
    monkeypatch.setattr(module, "console", terminal)
    with Progress("captioning", total=10, clock=clock) as progress:
        clock.now += 1.9
        progress.advance()
        assert terminal.file.getvalue() == ""
        clock.now += 0.1
        progress.advance(failed=True)
    assert "captioning" in terminal.file.getvalue()
    assert "1 a second, 1 failed" in terminal.file.getvalue()


def test_messages_can_be_json_too(capsys, monkeypatch):
    with messages_as_json():
        console.print('captioner: "a"\ncaptioner: b', markup=False)
    console.print("plain")
    *lines, plain = capsys.readouterr().err.splitlines()
    assert [json.loads(line) for line in lines] == [
        {"message": 'captioner: "a"'},
        {"message": "captioner: b"},
    ]
    assert plain == "plain"


def test_nothing_fails_without_a_stderr(clock, monkeypatch):
    monkeypatch.setattr(sys, "stderr", None)
    with Progress("captioning", json_lines=True, clock=clock) as progress:
        progress.advance()


def test_track_yields_all_items():
    assert list(track([1, 2, 3], total=3, doing="reading", unit="items")) == [1, 2, 3]


def test_unreadable_images_are_reported_and_left_out(capsys):
    results = ["a dog", ImageError("b.jpg", "no such file"), "a cat"]
    kept = list(skip_unreadable(["a", "b", "c"], results, doing="captioning"))
    assert kept == [("a", "a dog"), ("c", "a cat")]
    assert capsys.readouterr().err == "captioner: b.jpg: no such file\n"
