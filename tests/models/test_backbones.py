"""ResNets and MobileNetV2: the same computation, names and random weights as torchvision's."""

import pytest
import torch
import torchvision
from torch import nn

from captioner.models.backbones import TRUNKS, build_backbone
from captioner.models.weights import IMAGENET_WEIGHTS

TRUNKS_OF_TORCHVISION = [
    *("resnet18", "resnet34", "resnet50", "resnet101", "resnet152"),
    "mobilenet_v2",
]


def of_torchvision(trunk):
    """Build torchvision's model with random weights, without its classifier."""
    model = torchvision.models.get_model(trunk, weights=None)
    setattr(model, TRUNKS[trunk].classifier, nn.Identity())
    return model


def with_varied_norms(model, trunk, images):
    """Set the batch norms as no initialisation does, and their statistics to those of the images.

    Else the features would fade from block to block, and the last ones show no difference.
    """
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        nn.init.uniform_(norm.weight, 1, 3)  # large enough for the limit of ReLU6
        nn.init.uniform_(norm.bias, -1, 1)
        norm.momentum = 1.0
    with torch.no_grad():
        outputs_of_stages(model.train(), trunk, images)
    for norm in norms:
        norm.running_mean += 0.1 * torch.randn_like(norm.running_mean)
        norm.momentum = 0.1
    return model


def outputs_of_stages(model, trunk, x):
    """The output of every module of every stage, in the order they run.

    Args:
        model: it has the modules that the trunk's layout names.
        trunk: the name of its layout.
        x: images (B, 3, h, w).
    """
    outputs = []
    for modules in TRUNKS[trunk].stages.values():
        for module in modules:
            x = model.get_submodule(module)(x)
            outputs.append(x.clone())  # a ReLU in place would change it
    return outputs


@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize("trunk", TRUNKS_OF_TORCHVISION)
def test_every_stage_computes_what_torchvisions_does(trunk, training):
    torch.manual_seed(0)
    images = torch.randn(3, 3, 47, 33)  # odd sizes: the grid's size is rounded
    theirs = with_varied_norms(of_torchvision(trunk), trunk, images).train(training)
    ours = build_backbone(trunk).train(training)
    ours.load_state_dict(theirs.state_dict())
    with torch.no_grad():
        expected = outputs_of_stages(theirs, trunk, images)
        torch.testing.assert_close(outputs_of_stages(ours, trunk, images), expected)
    assert expected[-1].std() > 0.1  # features that differ from each other
    # in train mode, the running statistics of the batch norms have changed
    assert_equal_state(ours, theirs)


def test_the_gradients_are_those_of_torchvisions_model():
    torch.manual_seed(0)
    for trunk in ("resnet18", "resnet50", "mobilenet_v2"):
        theirs, ours = of_torchvision(trunk), build_backbone(trunk)
        ours.load_state_dict(theirs.state_dict())
        images = torch.randn(2, 3, 33, 33)
        for model in (ours, theirs):
            outputs_of_stages(model.eval(), trunk, images)[-1].square().mean().backward()
        gradients = {name: weight.grad for name, weight in theirs.named_parameters()}
        for name, weight in ours.named_parameters():
            torch.testing.assert_close(weight.grad, gradients[name])


@pytest.mark.parametrize("trunk", TRUNKS_OF_TORCHVISION)
def test_a_seed_gives_the_random_weights_of_torchvision_and_the_same_numbers_after_them(trunk):
    torch.manual_seed(5)
    theirs, theirs_next = of_torchvision(trunk), torch.rand(2)
    torch.manual_seed(5)
    ours, ours_next = build_backbone(trunk), torch.rand(2)
    assert_equal_state(ours, theirs)
    assert torch.equal(ours_next, theirs_next)


def assert_equal_state(ours, theirs):
    own, expected = ours.state_dict(), theirs.state_dict()
    assert list(own) == list(expected)
    assert all(torch.equal(own[name], expected[name]) for name in own)


def test_the_files_of_pretrained_weights_are_torchvisions_default_ones():
    assert {
        trunk: torchvision.models.get_model_weights(trunk).DEFAULT.url
        for trunk in TRUNKS_OF_TORCHVISION
    } == IMAGENET_WEIGHTS
