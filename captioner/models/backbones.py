"""The CNNs that an image encoder can use as its trunk: their stages, channels and pixels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

from torch import nn

from captioner.config.schema import TrunkName
from captioner.models.efficientnet import WIDTH_AND_DEPTH, EfficientNetLite
from captioner.models.mobilenet import MobileNetV2
from captioner.models.resnet import RESNETS, ResNet

_LITE_STAGES = ("stem", *(f"stage{number}" for number in range(1, 8)), "head")
_SMALL_CNN_CHANNELS = (3, 32, 64, 128, 256, 256, 256)

RGB = tuple[float, float, float]


@dataclass(frozen=True)
class TrunkLayout:
    """The names of a CNN's modules, and the pixels that it was trained with."""

    stages: Mapping[str, tuple[str, ...]]  # stage → its modules, both in the order they run
    channels: int  # C of the last feature map
    classifier: str  # the module after the pooling in a file of weights, which the encoder omits
    # The trunk's input is (pixel - mean) / std, for pixels from 0 to 1. The default is ImageNet's
    # mean and standard deviation.
    mean: RGB = (0.485, 0.456, 0.406)
    std: RGB = (0.229, 0.224, 0.225)


_RESNET_STAGES = {
    "stem": ("conv1", "bn1", "relu", "maxpool"),
    "layer1": ("layer1",),
    "layer2": ("layer2",),
    "layer3": ("layer3",),
    "layer4": ("layer4",),
}

_EFFICIENTNET_LITE = TrunkLayout(
    {stage: (stage,) for stage in _LITE_STAGES},
    channels=1280,
    classifier="_fc",  # the name in `efficientnet_lite_pytorch`
    mean=(127 / 255,) * 3,
    std=(128 / 255,) * 3,
)

TRUNKS: Mapping[TrunkName, TrunkLayout] = {
    "resnet18": TrunkLayout(_RESNET_STAGES, channels=512, classifier="fc"),
    "resnet34": TrunkLayout(_RESNET_STAGES, channels=512, classifier="fc"),
    "resnet50": TrunkLayout(_RESNET_STAGES, channels=2048, classifier="fc"),
    "resnet101": TrunkLayout(_RESNET_STAGES, channels=2048, classifier="fc"),
    "resnet152": TrunkLayout(_RESNET_STAGES, channels=2048, classifier="fc"),
    "mobilenet_v2": TrunkLayout({"stem": ("features",)}, channels=1280, classifier="classifier"),
    **dict.fromkeys(WIDTH_AND_DEPTH, _EFFICIENTNET_LITE),
    "small_cnn": TrunkLayout(
        {"stem": ("layers",)}, channels=_SMALL_CNN_CHANNELS[-1], classifier="classifier"
    ),
}


def build_backbone(trunk: TrunkName) -> nn.Module:
    """Build a trunk without its classifier, with random weights."""
    if trunk in WIDTH_AND_DEPTH:
        return EfficientNetLite(trunk)
    if trunk in RESNETS:
        return ResNet(trunk)
    return MobileNetV2() if trunk == "mobilenet_v2" else SmallCNN()


class SmallCNN(nn.Module):
    """Six convolutions of stride 2, which reduce 64 x 64 pixels to a grid of one position.

    The one position still encodes where objects are; the mean over a larger grid would lose that.
    """

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential()
        for before, after in pairwise(_SMALL_CNN_CHANNELS):
            # (B, before, h, w) → (B, after, h/2, w/2)
            self.layers.append(
                nn.Conv2d(before, after, kernel_size=3, stride=2, padding=1, bias=False)
            )
            self.layers.append(nn.BatchNorm2d(after))
            self.layers.append(nn.ReLU())
