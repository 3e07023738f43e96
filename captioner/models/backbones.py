"""What an image encoder can use as its trunk: the stages, channels and pixels of each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

from torch import Tensor, nn

from captioner.config.schema import RGB
from captioner.config.trunks import TIMM, TrunkName
from captioner.models.efficientnet import WIDTH_AND_DEPTH, EfficientNetLite
from captioner.models.mobilenet import MobileNetV2
from captioner.models.resnet import RESNETS, ResNet

_LITE_STAGES = ("stem", *(f"stage{number}" for number in range(1, 8)), "head")
_SMALL_CNN_CHANNELS = (3, 32, 64, 128, 256, 256, 256)


@dataclass(frozen=True)
class TrunkLayout:
    """The names of a trunk's modules, and the pixels that it was trained with."""

    stages: Mapping[str, tuple[str, ...]]  # stage → its modules, both in the order they run
    channels: int  # C of the last feature map
    classifier: str  # the module after the pooling in a file of weights, which the encoder omits
    # The trunk's input is (pixel - mean) / std, for pixels from 0 to 1. The default is ImageNet's
    # mean and standard deviation.
    mean: RGB = (0.485, 0.456, 0.406)
    std: RGB = (0.229, 0.224, 0.225)
    image_size: int = 224  # side of the images that it is built for; most accept other sizes too

    def run(self, trunk: nn.Module, images: Tensor) -> Tensor:
        """Run a trunk on normalised images (B, 3, H, W); return its feature map (B, C, h, w)."""
        x = images
        for modules in self.stages.values():
            for module in modules:
                x = trunk.get_submodule(module)(x)
        return x


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


def build_trunk(trunk: TrunkName, *, image_size: int | None) -> tuple[nn.Module, TrunkLayout]:
    """Build a trunk without its classifier, with random weights, and return its layout too.

    Args:
        trunk: its name; that of a model of the package timm begins with `timm/`.
        image_size: side of the images in pixels, on which some models of timm depend; None: the one
            that a model of timm was trained with.

    Raises:
        CaptionerError: timm is missing, or has no such model, or the model gives no grid.
    """
    if trunk.startswith(TIMM):
        from captioner.models.timm_trunk import build_timm_trunk

        return build_timm_trunk(trunk, image_size=image_size)
    return build_backbone(trunk), TRUNKS[trunk]


def build_backbone(trunk: TrunkName) -> nn.Module:
    """Build a trunk of this package without its classifier, with random weights."""
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
