"""A process that reads images dies or hangs: the run ends soon, and names the file."""

import os
import signal
import time

import pytest
import torch
from trainings import small

from captioner.data.batching import CaptionDataset, ImageSource, in_order
from captioner.data.loading import Loader
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


@pytest.mark.parametrize(("load", "told"), [(dies, "has died"), (hangs, "has given no answer")])
def test_a_worker_that_dies_or_hangs_is_told_with_its_file_within_a_minute(load, told):
    data = CaptionDataset(load, [[[1, 4, 2]]] * 8, 5, 0)
    loader = Loader(
        data, in_order(8, 2), workers=2, timeout=3, name=lambda index: f"photo-{index}.jpg"
    )
    start = time.monotonic()
    with pytest.raises(
        CaptionerError, match=rf"{told} while reading photo-5\.jpg: .*training\.worker"
    ):
        list(loader)
    assert time.monotonic() - start < 60


def test_a_worker_that_dies_while_nobody_waits_for_it_is_no_bolt_from_the_blue():
    loader = Loader(
        CaptionDataset(dies, [[[1, 4, 2]]] * 8, 5, 0), in_order(8, 2), workers=1, timeout=3
    )
    batches = iter(loader)
    next(batches)
    time.sleep(1)  # with torch's own handler, this would raise
    with pytest.raises(CaptionerError, match="has died"):
        list(batches)


def test_a_run_whose_worker_dies_ends_with_1_and_the_name_of_the_photo(tiny, monkeypatch):
    real = ImageSource.__call__

    def deadly(self, index, rng):
        if self.examples[index].path.name == photo.name:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(self, index, rng)

    config = small(tiny, training={"workers": 1, "worker_timeout": 5})
    photo = sorted(config.data.train.images.iterdir())[3]
    monkeypatch.setattr(ImageSource, "__call__", deadly)
    with pytest.raises(CaptionerError, match=f"has died while reading .*{photo.name}") as error:
        train(config, device="cpu")
    assert error.value.exit_code == 1
