"""ResNets with 18 to 152 layers, with the module names and the initialisation of torchvision.

He et al. 2015, "Deep residual learning for image recognition", with one change: a bottleneck block
has its stride in the 3 x 3 convolution, as in torchvision, whose weights are used. The paper has it
in the first 1 x 1 convolution. This variant is known as ResNet V1.5.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from captioner.config.trunks import TrunkName


class BasicBlock(nn.Module):
    """Two 3 x 3 convolutions, to whose output the input is added: figure 5 of the paper, left."""

    expansion = 1  # output channels per channel of the block's convolutions

    def __init__(self, inputs: int, channels: int, *, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, channels, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = _projection(inputs, channels, stride)

    def forward(self, x: Tensor) -> Tensor:
        """Map a grid (B, inputs, h, w) to (B, channels, h/stride, w/stride), rounded up."""
        y = self.relu(self.bn1(self.conv1(x)))  # (B, channels, h/stride, w/stride)
        y = self.bn2(self.conv2(y))
        y += x if self.downsample is None else self.downsample(x)  # equation 1, or 2
        output: Tensor = self.relu(y)
        return output


class Bottleneck(nn.Module):
    """A 3 x 3 convolution between two of 1 x 1, which reduce and restore the channels: figure 5.

    The input is added to the output.
    """

    expansion = 4

    def __init__(self, inputs: int, channels: int, *, stride: int) -> None:
        super().__init__()
        outputs = channels * self.expansion
        self.conv1 = nn.Conv2d(inputs, channels, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        # the stride is here, not in conv1: ResNet V1.5
        self.conv2 = nn.Conv2d(channels, channels, 3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.conv3 = nn.Conv2d(channels, outputs, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = _projection(inputs, outputs, stride)

    def forward(self, x: Tensor) -> Tensor:
        """Map a grid (B, inputs, h, w) to (B, 4 · channels, h/stride, w/stride), rounded up."""
        y = self.relu(self.bn1(self.conv1(x)))  # (B, channels, h, w)
        y = self.relu(self.bn2(self.conv2(y)))  # (B, channels, h/stride, w/stride)
        y = self.bn3(self.conv3(y))  # (B, 4 · channels, h/stride, w/stride)
        y += x if self.downsample is None else self.downsample(x)  # equation 1, or 2
        output: Tensor = self.relu(y)
        return output


def _projection(inputs: int, outputs: int, stride: int) -> nn.Sequential | None:
    """Return the matrix W_s of equation 2, where the input has another shape than the output."""
    if stride == 1 and inputs == outputs:
        return None
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False), nn.BatchNorm2d(outputs)
    )


# table 1 of the paper: the kind of block, and how many of them each of the four layers has
RESNETS: Mapping[TrunkName, tuple[type[BasicBlock | Bottleneck], tuple[int, int, int, int]]] = {
    "resnet18": (BasicBlock, (2, 2, 2, 2)),
    "resnet34": (BasicBlock, (3, 4, 6, 3)),
    "resnet50": (Bottleneck, (3, 4, 6, 3)),
    "resnet101": (Bottleneck, (3, 4, 23, 3)),
    "resnet152": (Bottleneck, (3, 8, 36, 3)),
}


class ResNet(nn.Module):
    """The modules of a ResNet, from the pixels to the last feature map, with random weights.

    `ImageEncoder.features` runs them: conv1, bn1, relu, maxpool, layer1 to layer4. With the same
    seed, the weights are those of torchvision's model.
    """

    def __init__(self, trunk: TrunkName) -> None:
        super().__init__()
        block, depths = RESNETS[trunk]
        # (B, 3, h, w) → (B, 64, h/2, w/2); here and below, sizes are rounded up
        self.conv1 = nn.Conv2d(3, 64, kernel_size=7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(kernel_size=3, stride=2, padding=1)  # → (B, 64, h/4, w/4)
        inputs = 64
        for number, depth in enumerate(depths, start=1):
            # layer1 keeps the size; each later one has half the size and twice the channels
            channels, stride = 32 * 2**number, 1 if number == 1 else 2
            layer = nn.Sequential()
            for index in range(depth):
                layer.append(block(inputs, channels, stride=stride if index == 0 else 1))
                inputs = channels * block.expansion
            self.add_module(f"layer{number}", layer)
        # ImageNet's classifier, which is not kept. torchvision's model has one, whose random
        # numbers come before those of the convolutions: the same seed gives the same weights.
        nn.Linear(inputs, 1000)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                # He et al. 2015, "Delving deep into rectifiers", section 2.2
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
