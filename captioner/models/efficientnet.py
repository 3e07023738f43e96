"""EfficientNet-Lite: the stages of the CNN, and its weights' names in `efficientnet_lite_pytorch`.

Tan and Le 2019, "EfficientNet: rethinking model scaling for convolutional neural networks", and the
Lite release of TensorFlow's TPU models: no squeeze-and-excitation, ReLU6 instead of swish, and a
stem and a head that are not scaled.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn

from captioner.config.trunks import TrunkName

_STEM_CHANNELS, _HEAD_CHANNELS = 32, 1280

WIDTH_AND_DEPTH: Mapping[TrunkName, tuple[float, float]] = {
    "efficientnet_lite0": (1.0, 1.0),
    "efficientnet_lite1": (1.0, 1.1),
    "efficientnet_lite2": (1.1, 1.2),
    "efficientnet_lite3": (1.2, 1.4),
    "efficientnet_lite4": (1.4, 1.8),
}


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

    `ImageEncoder.features` runs them: stem, stage1 to stage7, head. There is no classifier, and no
    stochastic depth in training.
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

    Sandler et al. 2018, "MobileNetV2: inverted residuals and linear bottlenecks". The module names
    and the padding are not those of `captioner.models.mobilenet`, whose weights are torchvision's.
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
        height, width = (self._padding(int(size)) for size in input.shape[-2:])
        # half of the zeros on each side; of an odd number, one more at the bottom or on the right
        if height % 2 or width % 2:
            # constants and a value, so that onnxruntime can fuse it with the convolution
            input = F.pad(input, (0, width % 2, 0, height % 2), value=0.0)
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
