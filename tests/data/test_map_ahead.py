"""Mapping in threads keeps the order and never runs far ahead."""

import threading

import pytest

from captioner.data.streaming import MAX_PENDING, map_ahead


def test_results_come_in_order_from_several_threads():
    barrier = threading.Barrier(2, timeout=10)  # passes only where two threads work at a time

    def meet(number):
        barrier.wait()
        return number * number

    assert list(map_ahead(meet, range(10), threads=2)) == [number * number for number in range(10)]


def test_items_are_taken_only_a_little_ahead_of_their_use():
    taken = []
    results = map_ahead(
        lambda item: item, (taken.append(n) or n for n in range(10 * MAX_PENDING)), threads=2
    )
    assert next(results) == 0
    assert len(taken) == MAX_PENDING


def test_an_error_arrives_in_place_of_the_result_that_it_prevents():
    results = map_ahead(lambda number: 1 // number, [1, 0], threads=1)
    assert next(results) == 1
    with pytest.raises(ZeroDivisionError):
        next(results)
