"""The names of trunks: those of the package, and those of timm, whose form alone is checked."""

import pytest

from captioner.config.schema import ImageEncoderConfig
from captioner.config.trunks import check_trunk_name
from captioner.errors import UsageError
from captioner.models.backbones import TRUNKS


@pytest.mark.parametrize("name", [*TRUNKS, "timm/resnet50", "timm/convnext_tiny.fb_in22k_ft_in1k"])
def test_every_trunk_has_a_name_that_the_schema_accepts(name):
    assert check_trunk_name(name) == name
    assert ImageEncoderConfig.parse({"trunk": name}, source="test").trunk == name


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("resnet19", "trunk: 'resnet19' is not a trunk: did you mean 'resnet18'.*or timm/NAME"),
        ("timm/", "trunk: 'timm/' is no name of a model of timm: .*timm/convnext_tiny.fb_in1k"),
        ("timm/../x", "no name of a model of timm"),
        ("timm/hf-hub:owner/name", "no name of a model of timm"),
        ("convnext_tiny", "'convnext_tiny' is not a trunk: choose one of resnet18.*or timm/NAME"),
    ],
)
def test_another_name_is_an_error_that_names_the_nearest(name, message):
    with pytest.raises(UsageError, match=message):
        ImageEncoderConfig.parse({"trunk": name}, source="test")


@pytest.mark.parametrize("std", [[0, 1, 1], [1, 1], [1, 1, float("inf")]])
def test_a_standard_deviation_is_three_positive_numbers(std):
    with pytest.raises(UsageError, match="std"):
        ImageEncoderConfig.parse({"std": std}, source="test")
