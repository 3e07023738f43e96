"""Batches of a stream: full where items are at hand, as they come where the source is live."""

import os
import subprocess
import sys
import threading
import time

import pytest

from captioner.data import streaming
from captioner.data.streaming import batches_as_ready


def batches(items, size=4):
    return batches_as_ready(items, size, start=lambda item: item)


def feeders():
    return [thread for thread in threading.enumerate() if thread.name == "read-ahead"]


@pytest.fixture
def patient(monkeypatch):
    """Wait so long for an item that a busy machine does not look like a live source."""
    monkeypatch.setattr(streaming, "PAUSE", 1.0)
    monkeypatch.setattr(streaming, "LATEST", 20.0)


def test_a_list_and_a_fast_generator_give_full_batches(patient):
    for items in (list(range(10)), range(10), iter(range(10))):
        assert list(batches(items)) == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    assert list(batches([])) == []


class SlowDataset:
    """A map-style data set of PyTorch: no `__iter__`, and each item takes longer than a pause."""

    def __len__(self):
        return 3

    def __getitem__(self, index):
        time.sleep(0.12)
        return range(3)[index]


def test_a_slow_map_style_data_set_gives_full_batches():
    assert list(batches(SlowDataset())) == [[0, 1, 2]]


def test_what_has_come_is_given_while_the_source_waits(patient):
    go_on = threading.Event()

    def live():
        yield from range(3)
        assert go_on.wait(10)  # a source that goes on only after the results before
        yield 3

    stream = batches(live())
    assert next(stream) == [0, 1, 2]
    go_on.set()
    assert list(stream) == [[3]]


def test_a_steady_source_fills_no_batch_for_longer_than_half_a_second():
    def steady():
        for number in range(40):
            yield number
            time.sleep(0.03)

    start = time.monotonic()
    first = next(batches(steady(), size=40))
    assert len(first) < 40
    assert time.monotonic() - start < 1.1


def test_the_time_that_starting_an_item_takes_is_no_pause_of_the_source(monkeypatch):
    monkeypatch.setattr(streaming, "LATEST", 20.0)

    def start(item):
        time.sleep(0.12)
        return item

    assert list(batches_as_ready(iter(range(3)), 3, start=start)) == [[0, 1, 2]]


def test_an_exception_of_the_source_comes_after_the_items_before_it(patient):
    def failing():
        yield from range(6)
        raise OSError("unplugged")

    stream = batches(failing())
    assert [next(stream), next(stream)] == [[0, 1, 2, 3], [4, 5]]
    with pytest.raises(OSError, match="unplugged"):
        next(stream)


def test_no_more_than_a_batch_is_taken_ahead(patient):
    taken = []
    stream = batches((taken.append(n) or n for n in range(100)), size=4)
    next(stream)
    time.sleep(0.2)
    assert len(taken) == 8
    stream.close()


def test_closing_the_stream_ends_its_thread():
    before = len(feeders())
    stream = batches(iter(range(10**9)))
    next(stream)
    assert len(feeders()) == before + 1
    stream.close()
    assert len(feeders()) == before


def test_closing_does_not_wait_for_ever_for_a_source_that_blocks():
    release = threading.Event()

    def blocking():
        yield 0
        release.wait(30)

    stream = batches(blocking())
    assert next(stream) == [0]
    start = time.monotonic()
    stream.close()
    assert time.monotonic() - start < 5
    release.set()


LEAVE_STDIN_OPEN = """
import sys
from captioner.data.streaming import batches_as_ready

lines = iter(sys.stdin.buffer.readline, b"")
stream = batches_as_ready(lines, 4, start=lambda line: line)
print(next(stream), flush=True)
stream.close()
"""


def test_a_process_that_leaves_a_stream_of_its_open_stdin_ends_well():
    environment = {name: os.environ[name] for name in os.environ if name != "PYTHONUNBUFFERED"}
    command = [sys.executable, "-c", LEAVE_STDIN_OPEN]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, env=environment, **pipes) as process:
        process.stdin.write(b"a\n")
        process.stdin.flush()
        process.wait(60)  # while its standard input is open
        assert process.stdout.read() == b"[b'a\\n']\n"
        assert process.stderr.read() == b""
        assert process.returncode == 0
