"""Batches of a stream: full where items are at hand, as they come where the source is live."""

import threading
import time

import pytest

from captioner.data.streaming import batches_as_ready


def batches(items, size=4):
    return batches_as_ready(items, size, start=lambda item: item)


def feeders():
    return [thread for thread in threading.enumerate() if thread.name == "read-ahead"]


def test_a_list_and_a_fast_generator_give_full_batches():
    for items in (list(range(10)), range(10), iter(range(10))):
        assert list(batches(items)) == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    assert list(batches([])) == []


def test_what_has_come_is_given_while_the_source_waits():
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


def test_the_time_that_starting_an_item_takes_is_no_pause_of_the_source():
    def start(item):
        time.sleep(0.12)
        return item

    assert list(batches_as_ready(iter(range(3)), 3, start=start)) == [[0, 1, 2]]


def test_an_exception_of_the_source_comes_after_the_items_before_it():
    def failing():
        yield from range(6)
        raise OSError("unplugged")

    stream = batches(failing())
    assert [next(stream), next(stream)] == [[0, 1, 2, 3], [4, 5]]
    with pytest.raises(OSError, match="unplugged"):
        next(stream)


def test_no_more_than_a_batch_is_taken_ahead():
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
