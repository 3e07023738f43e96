"""The moving average follows its formula, and is what a run validates and keeps."""

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from captioner.training.checkpoint import checkpoints, load_checkpoint
from captioner.training.optim import EMA
from captioner.training.recorder import read_log
from captioner.training.train import train


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))


def steps_of(module, count):
    """Change every weight and statistic at random; yield each state."""
    for _ in range(count):
        for tensor in module.state_dict().values():
            tensor.add_(torch.randn(tensor.shape) if tensor.is_floating_point() else 1)
        yield copy_of(module)


def copy_of(module):
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def assert_same(state, other):
    assert state.keys() == other.keys()
    assert all(torch.equal(tensor, other[name]) for name, tensor in state.items())


def test_parameters_and_statistics_are_averaged_by_the_formula():
    module = network()
    average = EMA(module, decay=0.3)
    expected = copy_of(module)
    for step, state in enumerate(steps_of(module, 5)):
        average.update()
        decay = [1 / 10, 2 / 11, 3 / 12, 0.3, 0.3][step]
        for name, tensor in state.items():
            moves = tensor.is_floating_point()
            expected[name] = decay * expected[name] + (1 - decay) * tensor if moves else tensor
    average.apply()
    for name, tensor in module.state_dict().items():
        torch.testing.assert_close(tensor, expected[name])


def test_the_module_has_the_average_within_the_block_and_its_weights_again_after_it():
    module = network()
    start, average = copy_of(module), EMA(module, decay=0.9)
    (last,) = steps_of(module, 1)
    average.update()
    with average.applied():
        torch.testing.assert_close(
            module[0].weight.data, 0.1 * start["0.weight"] + 0.9 * last["0.weight"]
        )
    assert_same(copy_of(module), last)
    with pytest.raises(KeyboardInterrupt), average.applied():
        raise KeyboardInterrupt
    assert_same(copy_of(module), last)


def test_without_a_decay_the_module_stays_as_it_is():
    module = network()
    average = EMA(module, decay=0)
    (last,) = steps_of(module, 1)
    average.update()
    with average.applied():
        assert_same(copy_of(module), last)
    average.apply()
    assert_same(copy_of(module), last)


def test_weights_that_two_modules_share_stay_shared():
    module = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    module[1].weight = module[0].weight
    average = EMA(module, decay=0.9)
    list(steps_of(module, 1))
    average.update()
    average.apply()
    assert module[1].weight is module[0].weight


@pytest.mark.parametrize(("before", "after"), [(0.0, 0.9), (0.9, 0.0)])
def test_a_run_can_be_resumed_with_an_average_that_it_did_not_have_and_without_one(before, after):
    module = network()
    saved = EMA(module, decay=before)
    list(steps_of(module, 1))
    saved.update()
    average = EMA(module, decay=after)
    average.load_state_dict(saved.state_dict())
    now = copy_of(module)
    with average.applied():
        assert_same(copy_of(module), now)


def weights_of(folder):
    return load_file(folder / "model.safetensors")


def test_the_best_model_is_the_average_and_training_continues_from_the_raw_weights(tiny, tmp_path):
    for name, decay in (("raw", 0.0), ("averaged", 0.9)):
        train(
            tiny(output=tmp_path / name, training={"ema": decay, "phases": [{"epochs": 1}]}),
            device="cpu",
        )
    raw, averaged = (read_log(tmp_path / name) for name in ("raw", "averaged"))
    assert raw[:-1] == averaged[:-1]
    assert raw[-1]["dev_loss"] != averaged[-1]["dev_loss"]
    (last,) = checkpoints(tmp_path / "averaged")
    assert_same(weights_of(last), weights_of(checkpoints(tmp_path / "raw")[-1]))
    assert_same(weights_of(tmp_path / "raw" / "best"), weights_of(last))
    kept = load_checkpoint(last).average["average"]
    assert_same(weights_of(tmp_path / "averaged" / "best"), weights_of(last) | kept)


def test_a_phase_starts_from_the_average_whose_trunk_computes_its_features(tiny, tmp_path):
    phases = [{"epochs": 1, "finetune_from": "stem"}, {"epochs": 1}]
    train(tiny(training={"ema": 0.9, "phases": phases}), device="cpu")
    before, after = checkpoints(tmp_path / "run")
    trunk = {
        name: tensor
        for name, tensor in load_checkpoint(before).average["average"].items()
        if "trunk" in name
    }
    for model in (weights_of(after), load_checkpoint(after).average["average"]):
        assert_same({name: model[name] for name in trunk}, trunk)
