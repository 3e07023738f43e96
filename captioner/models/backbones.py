"""The CNNs that an image encoder can use as its trunk: their stages, channels and pixel statistics.

ResNets and MobileNetV2 are torchvision's. EfficientNet-Lite and a small CNN are here.

EfficientNet-Lite: Tan and Le 2019, "EfficientNet: rethinking model scaling for convolutional neural
networks", and the Lite release of TensorFlow's TPU models: no squeeze-and-excitation, ReLU6 instead
of swish, and a stem and a head that are not scaled.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn

from captioner.config.schema import TrunkName

_STEM_CHANNELS, _HEAD_CHANNELS = 32, 1280  # of EfficientNet-Lite
_LITE_STAGES = ("stem", *(f"stage{number}" for number in range(1, 8)), "head")

WIDTH_AND_DEPTH: Mapping[TrunkName, tuple[float, float]] = {
    "efficientnet_lite0": (1.0, 1.0),
    "efficientnet_lite1": (1.0, 1.1),
    "efficientnet_lite2": (1.1, 1.2),
    "efficientnet_lite3": (1.2, 1.4),
    "efficientnet_lite4": (1.4, 1.8),
}
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
    channels=_HEAD_CHANNELS,
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
    if trunk == "small_cnn":
        return SmallCNN()
    # only here: torchvision takes seconds to import
    import torchvision

    backbone: nn.Module = torchvision.models.get_model(trunk, weights=None)  # no download
    setattr(backbone, TRUNKS[trunk].classifier, nn.Identity())
    return backbone


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


class _Stage(NamedTuple):
    """A row of the paper's table 1: a number of blocks, of which the first one has the stride."""

    kernel_size: int
    stride: int
    expansion: int  # hidden channels of a block per channel of its input
    channels: int
    blocks: int


_STAGES = (  # for a width and a depth of 1
    _Stage(kernel_size=3, stride=1, expansion=1, channels=16, blocks=1),
    _Stage(kernel_size=3, stride=2, expansion=6, channels=24, blocks=2),
    _Stage(kernel_size=5, stride=2, expansion=6, channels=40, blocks=2),
    _Stage(kernel_size=3, stride=2, expansion=6, channels=80, blocks=3),
    _Stage(kernel_size=5, stride=1, expansion=6, channels=112, blocks=3),
    _Stage(kernel_size=5, stride=2, expansion=6, channels=192, blocks=4),
    _Stage(kernel_size=3, stride=1, expansion=6, channels=320, blocks=1),
)


class EfficientNetLite(nn.Module):
    """The stages of an EfficientNet-Lite, from the pixels to the last feature map.

    They run in the order of `_LITE_STAGES`, as `ImageEncoder.features` runs them. There is no
    classifier, and no stochastic depth in training.
    """

    def __init__(self, trunk: TrunkName) -> None:
        super().__init__()
        # (B, 3, h, w) → (B, 32, h/2, w/2); here and below, sizes are rounded up
        self.stem = ConvBN(3, _STEM_CHANNELS, kernel_size=3, stride=2)
        channels = _STEM_CHANNELS
        for number, stage in enumerate(_scaled_stages(trunk), start=1):
            # (B, channels, h, w) → (B, stage.channels, h/stride, w/stride)
            blocks = nn.Sequential()
            for block in range(stage.blocks):
                blocks.append(
                    InvertedResidual(
                        channels,
                        stage.channels,
                        expansion=stage.expansion,
                        kernel_size=stage.kernel_size,
                        stride=stage.stride if block == 0 else 1,
                    )
                )
                channels = stage.channels
            self.add_module(f"stage{number}", blocks)
        # (B, channels, h/32, w/32) → (B, 1280, h/32, w/32)
        self.head = ConvBN(channels, _HEAD_CHANNELS, kernel_size=1)


class InvertedResidual(nn.Module):
    """Expand the channels, filter each of them by itself, project them; add the input if it fits.

    Sandler et al. 2018, "MobileNetV2: inverted residuals and linear bottlenecks".
    """

    def __init__(
        self, inputs: int, outputs: int, *, expansion: int, kernel_size: int, stride: int
    ) -> None:
        super().__init__()
        hidden = inputs * expansion
        self.expand = nn.Identity() if expansion == 1 else ConvBN(inputs, hidden, kernel_size=1)
        # as many groups as channels: each channel has a filter of its own
        self.depthwise = ConvBN(
            hidden, hidden, kernel_size=kernel_size, stride=stride, groups=hidden
        )
        # no ReLU6 here: it would lose information where there are few channels
        self.project = ConvBN(hidden, outputs, kernel_size=1, relu6=False)
        self.is_residual = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        """Map a grid (B, inputs, h, w) to (B, outputs, h/stride, w/stride)."""
        y: Tensor = self.project(self.depthwise(self.expand(x)))
        return x + y if self.is_residual else y


class ConvBN(nn.Sequential):
    """A convolution, a batch norm, and ReLU6 unless it is a bottleneck."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        kernel_size: int,
        stride: int = 1,
        groups: int = 1,
        relu6: bool = True,
    ) -> None:
        super().__init__()
        self.conv = SameConv2d(
            inputs, outputs, kernel_size, stride=stride, groups=groups, bias=False
        )
        self.bn = nn.BatchNorm2d(outputs, eps=1e-3, momentum=0.01)  # as TensorFlow's models have it
        if relu6:
            self.relu6 = nn.ReLU6(inplace=True)


class SameConv2d(nn.Conv2d):
    """A convolution with TensorFlow's SAME padding, for any stride and any size of the image.

    The output has ⌈size / stride⌉ positions. PyTorch's `padding="same"` knows a stride of 1 only,
    and a fixed padding would sample an image of even size one pixel further to the top left.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Convolve (B, inputs, h, w) to (B, outputs, ⌈h/stride⌉, ⌈w/stride⌉)."""
        height, width = (self._padding(size) for size in input.shape[-2:])
        # half of the zeros on each side; of an odd number, one more at the bottom or on the right
        if height % 2 or width % 2:
            input = F.pad(input, (0, width % 2, 0, height % 2))
        both_sides = (height // 2, width // 2)
        return F.conv2d(input, self.weight, self.bias, self.stride, both_sides, groups=self.groups)

    def _padding(self, size: int) -> int:
        """Return the number of zeros to add to a side of `size` pixels."""
        (kernel_size, _), (stride, _) = self.kernel_size, self.stride
        positions = math.ceil(size / stride)
        # from the first pixel of the first window to the last pixel of the last one
        covered = (positions - 1) * stride + kernel_size
        return max(covered - size, 0)


def _scaled_stages(trunk: TrunkName) -> list[_Stage]:
    """Return the stages of a variant: more channels by its width, more blocks by its depth."""
    width, depth = WIDTH_AND_DEPTH[trunk]
    last = len(_STAGES) - 1
    return [
        stage._replace(
            channels=_round_to_eight(stage.channels * width),
            # Lite keeps the first and the last stage as short as they are
            blocks=stage.blocks if index in (0, last) else math.ceil(stage.blocks * depth),
        )
        for index, stage in enumerate(_STAGES)
    ]


def _round_to_eight(channels: float) -> int:
    """Round to a multiple of eight, but not down by more than a tenth."""
    rounded = max(8, int(channels + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * channels else rounded


_STEM_AND_HEAD = {
    "_conv_stem": "stem.conv",
    "_bn0": "stem.bn",
    "_conv_head": "head.conv",
    "_bn1": "head.bn",
}
_BLOCK = {
    "_expand_conv": "expand.conv",
    "_bn0": "expand.bn",
    "_depthwise_conv": "depthwise.conv",
    "_bn1": "depthwise.bn",
    "_project_conv": "project.conv",
    "_bn2": "project.bn",
}


def rename_weights(trunk: TrunkName, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename the tensors of a state dict of `efficientnet_lite_pytorch` to the names used here.

    That package numbers the blocks through all stages. Tensors with other names keep them.
    """
    names = dict(_STEM_AND_HEAD)  # its modules → ours
    blocks = [
        f"stage{number}.{block}"
        for number, stage in enumerate(_scaled_stages(trunk), start=1)
        for block in range(stage.blocks)
    ]
    for index, block in enumerate(blocks):
        names |= {f"_blocks.{index}.{theirs}": f"{block}.{ours}" for theirs, ours in _BLOCK.items()}
    renamed = {}
    for key, tensor in state.items():
        module, _, name = key.rpartition(".")  # as "_bn0" and "running_mean"
        renamed[f"{names[module]}.{name}" if module in names else key] = tensor
    return renamed
