"""MobileNetV2, with the module names and the initialisation of torchvision.

Sandler et al. 2018, "MobileNetV2: inverted residuals and linear bottlenecks".
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor, nn


class _Stage(NamedTuple):
    """A row of the paper's table 2: a number of blocks, of which the first one has the stride."""

    expansion: int  # t: hidden channels of a block per channel of its input
    channels: int  # c
    blocks: int  # n
    stride: int  # s


_STAGES = (
    _Stage(expansion=1, channels=16, blocks=1, stride=1),
    _Stage(expansion=6, channels=24, blocks=2, stride=2),
    _Stage(expansion=6, channels=32, blocks=3, stride=2),
    _Stage(expansion=6, channels=64, blocks=4, stride=2),
    _Stage(expansion=6, channels=96, blocks=3, stride=1),
    _Stage(expansion=6, channels=160, blocks=3, stride=2),
    _Stage(expansion=6, channels=320, blocks=1, stride=1),
)


class InvertedResidual(nn.Module):
    """Expand the channels, filter each of them by itself, project them; add the input if it fits.

    This is table 1 of the paper. The names of the modules, and the padding of the same number of
    zeros on both sides, are torchvision's: `captioner.models.efficientnet` has others.
    """

    def __init__(self, inputs: int, outputs: int, *, expansion: int, stride: int) -> None:
        super().__init__()
        hidden = inputs * expansion
        self.conv = nn.Sequential()
        if expansion > 1:
            self.conv.append(_convolution(inputs, hidden, kernel_size=1))
        # as many groups as channels: each channel has a filter of its own
        self.conv.append(_convolution(hidden, hidden, kernel_size=3, stride=stride, groups=hidden))
        # no ReLU6 after it: it would lose information where there are few channels (section 3.2)
        self.conv.append(nn.Conv2d(hidden, outputs, kernel_size=1, bias=False))
        self.conv.append(nn.BatchNorm2d(outputs))
        self.is_residual = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        """Map a grid (B, inputs, h, w) to (B, outputs, h/stride, w/stride), rounded up."""
        y: Tensor = self.conv(x)
        return x + y if self.is_residual else y


def _convolution(
    inputs: int, outputs: int, *, kernel_size: int, stride: int = 1, groups: int = 1
) -> nn.Sequential:
    """Return a convolution, a batch norm and ReLU6."""
    padding = kernel_size // 2  # a stride of 1 keeps the size
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel_size, stride, padding, groups=groups, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU6(inplace=True),
    )


class MobileNetV2(nn.Module):
    """The `features` of MobileNetV2, from the pixels to the last feature map, with random weights.

    They map images (B, 3, h, w) to (B, 1280, h/32, w/32), rounded up. With the same seed, the
    weights are those of torchvision's model.
    """

    def __init__(self) -> None:
        super().__init__()
        channels = 32
        self.features = nn.Sequential(_convolution(3, channels, kernel_size=3, stride=2))
        for stage in _STAGES:
            for index in range(stage.blocks):
                # (B, channels, h, w) → (B, stage.channels, h/stride, w/stride)
                stride = stage.stride if index == 0 else 1
                self.features.append(
                    InvertedResidual(
                        channels, stage.channels, expansion=stage.expansion, stride=stride
                    )
                )
                channels = stage.channels
        self.features.append(_convolution(channels, 1280, kernel_size=1))
        # ImageNet's classifier, which is not kept. torchvision's model has one, whose random
        # numbers come before and after those of the convolutions: the same seed gives the same
        # weights, here and in the parts of a captioner that are built after this one.
        classifier = nn.Linear(1280, 1000)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                # He et al. 2015, "Delving deep into rectifiers", section 2.2
                nn.init.kaiming_normal_(module.weight, mode="fan_out")
        nn.init.normal_(classifier.weight, std=0.01)
