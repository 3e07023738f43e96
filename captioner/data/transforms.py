"""An upright RGB picture → a square of bytes for the CNN, by named presets. Normalising is the encoder's work.

Cropping and resizing are one call of Pillow's antialiased bilinear filter, the one that torchvision's weights were
trained with. All chance comes from the random numbers that are handed in.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from typing import Protocol, assert_never

import torch
from PIL import Image, ImageEnhance
from torch import Tensor

from captioner.config.schema import AugmentationName, TransformName

Box = tuple[float, float, float, float]
"""Left, top, right, bottom, in pixels of the source; fractions of a pixel count."""


class Transform(Protocol):
    """Turns a picture of any size into what the encoder takes."""

    @property
    def at_least(self) -> int:
        """Pixels on the short side from which the result is no blurrier than from the full size."""
        ...

    def __call__(self, image: Image.Image, rng: random.Random) -> Tensor:
        """Give (3, size, size) uint8."""
        ...


@dataclass(frozen=True)
class Squash:
    """The whole picture as a square: nothing is left out, the aspect is not kept."""

    size: int

    @property
    def at_least(self) -> int:
        """The short side becomes `size`."""
        return self.size

    def __call__(self, image: Image.Image, rng: random.Random) -> Tensor:
        """Give (3, size, size) uint8, whatever the random numbers."""
        return _tensor(_resize(image, (0, 0, *image.size), self.size))


@dataclass(frozen=True)
class CentreCrop:
    """The middle: a square of 7/8 of the short side, as ImageNet classifiers are tested (256 → 224)."""

    size: int

    @property
    def at_least(self) -> int:
        """The short side becomes 8/7 of `size`."""
        return math.ceil(self.size * 8 / 7)

    def __call__(self, image: Image.Image, rng: random.Random) -> Tensor:
        """Give (3, size, size) uint8, whatever the random numbers."""
        side = min(image.size) * 7 / 8
        return _tensor(_resize(image, _box(image, side, side, 0.5, 0.5), self.size))


@dataclass(frozen=True)
class RandomResizedCrop:
    """A part of the picture, squashed to a square and mirrored half of the time (Szegedy et al. 2015)."""

    size: int
    area: tuple[float, float]  # of the crop, as a share of the picture's: drawn evenly
    ratio: tuple[float, float]  # width to height: drawn evenly on a logarithmic scale
    jitter: float = 0.0  # brightness, contrast and saturation each change by up to this share

    @property
    def at_least(self) -> int:
        """The short side of the smallest crop becomes `size`."""
        return math.ceil(
            self.size / math.sqrt(self.area[0] * min(self.ratio[0], 1 / self.ratio[1]))
        )

    def __call__(self, image: Image.Image, rng: random.Random) -> Tensor:
        """Give (3, size, size) uint8."""
        crop = _resize(image, self._draw(image, rng), self.size)
        if rng.random() < 0.5:
            crop = crop.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        if self.jitter:
            for enhance in (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color):
                crop = enhance(crop).enhance(rng.uniform(1 - self.jitter, 1 + self.jitter))
        return _tensor(crop)

    def _draw(self, image: Image.Image, rng: random.Random) -> Box:
        low, high = self.ratio
        for _ in range(10):
            area = image.width * image.height * rng.uniform(*self.area)
            ratio = math.exp(rng.uniform(math.log(low), math.log(high)))
            width, height = math.sqrt(area * ratio), math.sqrt(area / ratio)
            if width <= image.width and height <= image.height:
                return _box(image, width, height, rng.random(), rng.random())
        # Too long a shape for any of them: the largest crop that keeps to the ratios, anywhere along it.
        width, height = min(image.width, image.height * high), min(image.height, image.width / low)
        return _box(image, width, height, rng.random(), rng.random())


def build_transform(name: TransformName | AugmentationName, size: int) -> Transform:
    """Make the preset `name` for squares of `size` pixels."""
    match name:
        case "squash":
            return Squash(size)
        case "crop":
            return CentreCrop(size)
        case "random_crop":
            return RandomResizedCrop(size, area=(0.08, 1.0), ratio=(3 / 4, 4 / 3))
        case "mild_crop":
            return RandomResizedCrop(size, area=(0.7, 1.0), ratio=(0.9, 1 / 0.9), jitter=0.2)
        case other:
            assert_never(other)


def _box(image: Image.Image, width: float, height: float, across: float, down: float) -> Box:
    """Lay a crop into the picture: `across` and `down` of 0 are its left and top edge, 1 its right and bottom edge."""
    left, top = (image.width - width) * across, (image.height - height) * down
    return (
        left,
        top,
        min(left + width, image.width),
        min(top + height, image.height),
    )  # rounding must not step outside


def _resize(image: Image.Image, box: Box, size: int) -> Image.Image:
    return image.resize((size, size), Image.Resampling.BILINEAR, box=box, reducing_gap=2.0)


def _tensor(image: Image.Image) -> Tensor:
    pixels = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8)
    return (
        pixels.view(image.height, image.width, 3).permute(2, 0, 1).contiguous()
    )  # (3, size, size)
