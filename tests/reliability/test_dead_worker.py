"""A worker that reads images dies or hangs: the run ends soon with the name of the file."""

import os
import signal
import time

import pytest
import torch
from trainings import small

from captioner.data.batching import CaptionDataset, ImageSource, Loader, sequential_batches
from captioner.errors import CaptionerError
from captioner.training.train import train

pytestmark = pytest.mark.row(10)


def dies(index, rng):
    if index == 5:
        os.kill(os.getpid(), signal.SIGKILL)
    return torch.zeros(1, 1)


def hangs(index, rng):
    if index == 5:
        time.sleep(600)
    return torch.zeros(1, 1)


@pytest.mark.parametrize(("load", "failure"), [(dies, "died"), (hangs, "timed out")])
def test_a_worker_that_dies_or_hangs_is_reported_with_its_file_within_a_minute(load, failure):
    data = CaptionDataset(load, [[[1, 4, 2]]] * 8, 5, 0)
    loader = Loader(
        data,
        sequential_batches(8, 2),
        workers=2,
        timeout=3,
        file_name=lambda index: f"photo-{index}.jpg",
    )
    start = time.monotonic()
    with pytest.raises(
        CaptionerError,
        match=rf"a worker process {failure} while reading photo-5\.jpg: .*training\.worker",
    ):
        list(loader)
    assert time.monotonic() - start < 60


def test_the_death_of_a_worker_is_reported_when_the_next_batch_is_requested():
    data = CaptionDataset(dies, [[[1, 4, 2]]] * 8, 5, 0)
    loader = Loader(data, sequential_batches(8, 2), workers=1, timeout=3)
    batches = iter(loader)
    next(batches)
    time.sleep(1)  # with torch's own handler, this would raise
    with pytest.raises(CaptionerError, match="a worker process died"):
        list(batches)


@pytest.mark.parametrize("error", [ConnectionResetError, EOFError, FileNotFoundError])
def test_a_worker_that_dies_while_it_hands_a_batch_over_is_reported(monkeypatch, error):
    loader = Loader(CaptionDataset(dies, [[[1, 4, 2]]] * 8, 5, 0), [], workers=0)

    def interrupted():
        yield torch.zeros(1)
        raise error  # what the main process gets when it fetches the memory of a dead worker

    monkeypatch.setattr(loader, "_loader", interrupted())
    batches = iter(loader)
    next(batches)
    with pytest.raises(CaptionerError, match="a worker process died"):
        next(batches)


def test_a_run_whose_worker_dies_ends_with_1_and_the_name_of_the_photo(tiny, monkeypatch):
    real = ImageSource.__call__

    def deadly(self, index, rng):
        if self.examples[index].path.name == photo.name:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(self, index, rng)

    config = small(tiny, training={"workers": 1, "worker_timeout": 5})
    photo = sorted(config.data.train[0].images.iterdir())[3]
    monkeypatch.setattr(ImageSource, "__call__", deadly)
    with pytest.raises(CaptionerError, match=f"died while reading .*{photo.name}") as error:
        train(config, device="cpu")
    assert error.value.exit_code == 1
