"""What waits is computed together, if it asks for the same; the queue has an end."""

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from services import run_async

from captioner.serve.batching import Batcher
from captioner.serve.errors import ServiceError

DEADLINE = 60.0


class Model:
    """Doubles numbers, and notes its batches. `gate` holds it while it is not set."""

    def __init__(self):
        self.batches = []
        self.gate = threading.Event()
        self.started = threading.Semaphore(0)

    def compute(self, key, items):
        self.batches.append((key, list(items)))
        self.started.release()
        assert self.gate.wait(10)
        if "bad" in items:
            raise ValueError("bad")
        return [item * 2 for item in items]


@pytest.fixture
def model():
    return Model()


def run(model, scenario, **settings):
    """Run a scenario with a batcher of the model."""
    values = {"workers": 1, "max_batch": 8, "max_wait": 0.0, "max_queue": 100} | settings

    async def main():
        batcher = Batcher(model.compute, **values)
        batcher.start()
        try:
            return await asyncio.wait_for(scenario(batcher), 20)
        finally:
            model.gate.set()
            await batcher.stop()

    return run_async(main())


async def submit(batcher, key, item):
    with batcher.places(1, deadline=DEADLINE) as places:
        return await places.submit(key, item)


async def settle():
    """Let all tasks run until they wait."""
    for _ in range(20):
        await asyncio.sleep(0)


async def busy(model, batcher):
    """Start a batch that holds the worker until the gate opens."""
    task = asyncio.create_task(submit(batcher, "first", 0))
    with ThreadPoolExecutor(1) as pool:
        await asyncio.get_running_loop().run_in_executor(pool, model.started.acquire)
    return task


def start(batcher, *pairs):
    return [asyncio.create_task(submit(batcher, key, item)) for key, item in pairs]


def test_what_waits_is_computed_together_by_its_key_oldest_first(model):
    async def scenario(batcher):
        first = await busy(model, batcher)
        tasks = start(batcher, ("a", 1), ("b", 2), ("a", 3), ("b", 4), ("a", 5))
        await settle()
        model.gate.set()
        return await asyncio.gather(first, *tasks)

    assert run(model, scenario) == [0, 2, 4, 6, 8, 10]
    assert model.batches == [("first", [0]), ("a", [1, 3, 5]), ("b", [2, 4])]


def test_a_batch_has_at_most_max_batch_items(model):
    async def scenario(batcher):
        first = await busy(model, batcher)
        tasks = start(batcher, *(("a", item) for item in range(1, 6)))
        await settle()
        model.gate.set()
        await asyncio.gather(first, *tasks)

    run(model, scenario, max_batch=2)
    assert [items for _, items in model.batches] == [[0], [1, 2], [3, 4], [5]]


def test_idle_workers_share_what_waits(model):
    async def scenario(batcher):
        tasks = start(batcher, *(("a", item) for item in range(4)))
        await settle()
        model.gate.set()
        await asyncio.gather(*tasks)

    run(model, scenario, workers=2)
    assert sorted(len(items) for _, items in model.batches) == [2, 2]


def test_a_batch_waits_for_what_is_on_the_way_but_not_longer_than_max_wait(model):
    model.gate.set()

    async def scenario(batcher):
        loop = asyncio.get_running_loop()
        with batcher.places(2, deadline=DEADLINE) as places:  # the second is still being read
            begun = loop.time()
            first = asyncio.create_task(places.submit("a", 1))
            await asyncio.sleep(0.05)
            assert await asyncio.gather(first, places.submit("a", 2)) == [2, 4]
            together = loop.time() - begun
        with batcher.places(2, deadline=DEADLINE) as places:  # it never comes
            begun = loop.time()
            await places.submit("a", 3)
            return together, loop.time() - begun

    together, alone = run(model, scenario, max_wait=0.3)
    assert model.batches == [("a", [1, 2]), ("a", [3])]
    assert together < 0.25
    assert 0.3 <= alone < 2


def test_one_item_alone_does_not_wait(model):
    model.gate.set()

    async def scenario(batcher):
        begun = asyncio.get_running_loop().time()
        await submit(batcher, "a", 1)
        return asyncio.get_running_loop().time() - begun

    assert run(model, scenario, max_wait=5.0) < 1


def test_nothing_is_waited_for_when_all_that_is_on_the_way_waits_with_another_key(model):
    model.gate.set()

    async def scenario(batcher):
        begun = asyncio.get_running_loop().time()
        await asyncio.gather(*start(batcher, ("a", 1), ("b", 2)))
        return asyncio.get_running_loop().time() - begun

    assert run(model, scenario, max_wait=5.0) < 1


def test_what_does_not_come_any_more_is_not_waited_for(model):
    model.gate.set()

    async def scenario(batcher):
        begun = asyncio.get_running_loop().time()
        with batcher.places(2, deadline=DEADLINE) as places:
            first = asyncio.create_task(places.submit("a", 1))
            await settle()
            assert not first.done()
            places.give_back(1)  # as if the second image could not be read
            await first
        return asyncio.get_running_loop().time() - begun

    assert run(model, scenario, max_wait=5.0) < 1


def test_each_item_of_a_request_leaves_its_place_when_it_is_computed(model):
    async def scenario(batcher):
        with batcher.places(2, deadline=DEADLINE) as places:
            first = asyncio.create_task(places.submit("first", 0))
            await settle()
            with pytest.raises(ServiceError):
                batcher.check_room(1, deadline=DEADLINE)
            model.gate.set()
            await first
            batcher.check_room(1, deadline=DEADLINE)  # the second is still being read

    run(model, scenario, max_queue=2)


def test_an_item_that_fails_leaves_its_batch_mates_their_results(model):
    async def scenario(batcher):
        first = await busy(model, batcher)
        tasks = start(batcher, ("a", 1), ("a", "bad"), ("a", 3))
        await settle()
        model.gate.set()
        await first
        return await asyncio.gather(*tasks, return_exceptions=True)

    one, error, three = run(model, scenario)
    assert (one, three) == (2, 6)
    assert isinstance(error, ValueError)


def test_what_nobody_waits_for_is_not_computed(model):
    async def scenario(batcher):
        first = await busy(model, batcher)
        tasks = start(batcher, ("a", 1), ("a", 2), ("b", 3))
        await settle()
        for task in (tasks[0], tasks[2]):
            task.cancel()
        await settle()
        assert batcher.depth == 1
        model.gate.set()
        await first
        return await tasks[1]

    assert run(model, scenario) == 4
    assert model.batches == [("first", [0]), ("a", [2])]


def test_a_full_queue_refuses_and_has_room_again_when_something_is_done(model):
    async def scenario(batcher):
        first = await busy(model, batcher)
        tasks = start(batcher, ("a", 1), ("a", 2))
        await settle()
        with pytest.raises(ServiceError) as error, batcher.places(1, deadline=DEADLINE):
            pass
        assert error.value.status == 429
        assert int(error.value.headers["Retry-After"]) >= 1
        model.gate.set()
        await asyncio.gather(first, *tasks)
        assert batcher.depth == 0
        with pytest.raises(ServiceError), batcher.places(4, deadline=DEADLINE):
            pass
        return await submit(batcher, "a", 4)

    assert run(model, scenario, max_queue=3) == 8


def test_what_would_not_be_done_before_the_deadline_is_refused(model):
    model.gate.set()

    def slow(key, items):
        threading.Event().wait(0.2 * len(items))
        return items

    async def scenario(batcher):
        await submit(batcher, "a", 1)  # measures 0.2 s an item
        tasks = start(batcher, *(("a", item) for item in range(4)))
        await settle()
        with pytest.raises(ServiceError, match="too long: about 1 s"):
            batcher.check_room(1, deadline=0.5)
        batcher.check_room(1, deadline=2)
        await asyncio.gather(*tasks)

    model.compute = slow
    run(model, scenario)


def test_two_workers_halve_the_time_that_an_item_is_expected_to_wait(model):
    def slow(key, items):
        threading.Event().wait(0.2)
        return items

    async def scenario(batcher):
        await submit(batcher, "a", 1)  # takes 0.2 s, in which the other worker could do as much
        with batcher.places(4, deadline=DEADLINE):
            return batcher.expected_wait

    model.compute = slow
    assert run(model, scenario, workers=2) == pytest.approx(4 * 0.2 / 2, rel=0.4)
