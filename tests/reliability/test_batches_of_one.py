"""Batch norms that learn need more than one image in a micro-batch."""

import pytest
import torch
from test_out_of_memory import GPU, no_room_for_more_than

from captioner.errors import CaptionerError, UsageError
from captioner.training.recorder import read_log
from captioner.training.train import train

pytestmark = pytest.mark.row(42)
LEARNS = {"phases": [{"epochs": 1}, {"epochs": 1, "finetune_from": "stem"}]}
MESSAGE = "leaves batch norms one value of one image, from which they cannot learn: set a larger"


@pytest.mark.parametrize(
    "settings",
    [{"batch_size": 1}, {"batch_size": 2, "accumulate": 2}, {"batch_size": 7, "accumulate": 4}],
    ids=["batch of one", "micro-batches of one", "one micro-batch of one"],
)
def test_a_later_phase_with_batches_of_one_is_refused_before_the_first_step(tiny, settings):
    # 32 pixels a side leave a grid of one position: a batch norm would raise an error
    config = tiny(training=LEARNS | settings)
    with pytest.raises(UsageError, match=MESSAGE):
        train(config, device="cpu")
    assert not (config.output / "metrics.jsonl").exists()


@pytest.mark.parametrize("settings", [{"batch_size": 1}, {"batch_size": 8, "accumulate": 8}])
def test_one_image_trains_batch_norms_that_see_more_than_one_position(tiny, settings):
    encoder = {"trunk": "resnet18", "weights": "none", "image_size": 64, "batch_norm": "train"}
    phases = [{"epochs": 1, "finetune_from": "layer4"}]
    config = tiny(encoder=encoder, training={"phases": phases, "max_steps": 2} | settings)
    train(config, device="cpu")
    assert len([line for line in read_log(config.output) if "loss" in line]) == 2


@pytest.mark.parametrize(
    ("encoder", "phases"),
    [
        ({"batch_norm": "eval"}, LEARNS["phases"]),
        ({"batch_norm": "train"}, [{"epochs": 1}]),
    ],
    ids=["batch norms that do not learn", "a frozen trunk"],
)
def test_batches_of_one_train_where_no_batch_norm_learns(tiny, encoder, phases):
    # 32 pixels a side leave a grid of one position: a batch norm would raise an error
    config = tiny(encoder=encoder, training={"batch_size": 1, "max_steps": 26, "phases": phases})
    train(config, device="cpu")
    assert len([line for line in read_log(config.output) if "loss" in line]) >= 24


@pytest.mark.parametrize(("batch_norm", "reached"), [("train", 4), ("eval", 8)])
def test_auto_leaves_two_images_for_batch_norms_that_learn(
    tiny, monkeypatch, capsys, batch_norm, reached
):
    no_room_for_more_than(0, monkeypatch, GPU)
    encoder = {"trunk": "small_cnn", "weights": "none", "image_size": 32, "batch_norm": batch_norm}
    phases = [{"epochs": 1, "finetune_from": "stem"}]
    config = tiny(encoder=encoder, training={"accumulate": "auto", "phases": phases})
    with pytest.raises(CaptionerError, match=r"out of memory with training\.batch_size=8"):
        train(config, device="cpu")
    said = capsys.readouterr().err
    assert f"processed in {reached} micro-batches" in said
    assert f"processed in {2 * reached} micro-batches" not in said


def test_a_batch_norm_raises_an_error_for_one_value():
    """The reason for the rows above."""
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        torch.nn.BatchNorm2d(3)(torch.zeros(1, 3, 1, 1))
