"""A CNN small enough to learn from nothing on a CPU, for small and simple pictures such as the drawn shapes."""

from __future__ import annotations

from itertools import pairwise

from torch import nn

CHANNELS = (3, 32, 64, 128, 256, 256, 256)


class SmallCNN(nn.Module):
    """Six convolutions, each halving the map: what is left of 64 x 64 pixels is one place that has seen all of them.

    That keeps where things are, which the mean over a larger map would blur.
    """

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential()
        for before, after in pairwise(CHANNELS):
            self.layers.append(nn.Conv2d(before, after, kernel_size=3, stride=2, padding=1, bias=False))
            self.layers.append(nn.BatchNorm2d(after))
            self.layers.append(nn.ReLU())
