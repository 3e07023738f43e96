"""The optimizer and its learning rates: who decays, who learns how fast, and when."""

import math

import pytest
import torch
from torch import nn

from captioner.config.schema import DecoderConfig, ImageEncoderConfig, ModelConfig
from captioner.config.training import PhaseConfig
from captioner.models.build import build_model
from captioner.training.optim import make_optimizer, set_learning_rate

PHASE = PhaseConfig(finetune_from="stem", learning_rate=1e-2, trunk_learning_rate=1e-3)


@pytest.fixture
def model():
    """A small model whose whole trunk learns."""
    encoder = ImageEncoderConfig(trunk="small_cnn", weights="none", image_size=64)
    decoder = DecoderConfig(embed_size=4, hidden_size=4)
    model = build_model(ModelConfig(encoder=encoder, decoder=decoder), vocab_size=6)
    model.encoder.finetune("stem")
    return model


def settings_of(optimizer):
    """Each weight's group settings, by the weight's identity."""
    return {id(weight): group for group in optimizer.param_groups for weight in group["params"]}


def test_matrices_decay_and_biases_and_batch_norms_do_not(model):
    settings = settings_of(make_optimizer(model, PHASE, weight_decay=0.3))
    weights = dict(model.named_parameters())
    batch_norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    assert batch_norms
    for module in batch_norms:
        assert settings[id(module.weight)]["weight_decay"] == 0
        assert settings[id(module.bias)]["weight_decay"] == 0
    for name, weight in weights.items():
        wanted = 0.3 if weight.dim() > 1 else 0
        assert settings[id(weight)]["weight_decay"] == wanted, name


def test_the_trunk_learns_at_its_own_rate(model):
    optimizer = make_optimizer(model, PHASE, weight_decay=0.0)
    set_learning_rate(optimizer, step=0, steps=10, warmup=0.1)  # one step of warm-up: the peak
    settings = settings_of(optimizer)
    for weight in model.encoder.parameters():
        assert settings[id(weight)]["lr"] == pytest.approx(1e-3)
    for weight in model.decoder.parameters():
        assert settings[id(weight)]["lr"] == pytest.approx(1e-2)


def test_a_frozen_trunk_has_no_weights_in_the_optimizer(model):
    model.encoder.finetune(None)
    settings = settings_of(make_optimizer(model, PHASE, weight_decay=0.0))
    assert settings.keys() == {id(weight) for weight in model.decoder.parameters()}


@pytest.fixture
def rates():
    """The learning rate of every step, for a peak of 1."""

    def of(steps, warmup):
        optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
        optimizer.param_groups[0]["peak"] = 1.0
        return [
            set_learning_rate(optimizer, step=step, steps=steps, warmup=warmup)
            for step in range(steps)
        ]

    return of


def test_warm_up_rises_in_equal_steps_to_the_peak(rates):
    assert rates(100, 0.2)[:20] == pytest.approx([(step + 1) / 20 for step in range(20)])


def test_after_warm_up_the_rate_follows_half_a_cosine_to_zero(rates):
    found = rates(100, 0.2)[20:]
    assert found == pytest.approx([(1 + math.cos(math.pi * step / 80)) / 2 for step in range(80)])
    assert found[40] == pytest.approx(0.5)  # halfway
    assert 0 < found[-1] < 0.001  # it would be zero one step later


def test_without_warm_up_the_first_step_has_the_peak(rates):
    assert rates(10, 0.0)[0] == 1
