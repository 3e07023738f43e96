"""From pixels to a memory: a torchvision CNN without its classifier. Knows nothing of words."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from copy import deepcopy
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Self

import torch
import torchvision
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from captioner.config.schema import TrunkName
from captioner.errors import CaptionerError, UsageError
from captioner.models.weights import download_weights, read_state_dict
from captioner.types import Memory

CHANNELS = (3, 32, 64, 128, 256, 256, 256)


class SmallCNN(nn.Module):
    """Six convolutions, each halving the map: what is left of 64 x 64 pixels is one place that has seen all of them.

    That keeps where things are, which the mean over a larger map would blur.
    """

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential()
        for before, after in pairwise(CHANNELS):
            self.layers.append(
                nn.Conv2d(before, after, kernel_size=3, stride=2, padding=1, bias=False)
            )
            self.layers.append(nn.BatchNorm2d(after))
            self.layers.append(nn.ReLU())


@dataclass(frozen=True)
class Trunk:
    """Where a CNN keeps its parts: named stages in the order of their work, and what to leave out."""

    stages: dict[str, tuple[str, ...]]  # stage → the modules it is made of
    channels: int  # C of the last map
    classifier: str  # the module after the pooling


_RESNET_STAGES = {
    "stem": ("conv1", "bn1", "relu", "maxpool"),
    "layer1": ("layer1",),
    "layer2": ("layer2",),
    "layer3": ("layer3",),
    "layer4": ("layer4",),
}

TRUNKS: dict[TrunkName, Trunk] = {
    "resnet18": Trunk(_RESNET_STAGES, channels=512, classifier="fc"),
    "resnet34": Trunk(_RESNET_STAGES, channels=512, classifier="fc"),
    "resnet50": Trunk(_RESNET_STAGES, channels=2048, classifier="fc"),
    "resnet101": Trunk(_RESNET_STAGES, channels=2048, classifier="fc"),
    "resnet152": Trunk(_RESNET_STAGES, channels=2048, classifier="fc"),
    "mobilenet_v2": Trunk({"stem": ("features",)}, channels=1280, classifier="classifier"),
    "small_cnn": Trunk({"stem": ("layers",)}, channels=CHANNELS[-1], classifier="classifier"),
}


class ImageEncoder(nn.Module):
    """See a picture: the CNN's last map as a grid of places, and their mean as the summary.

    Images come as bytes and are normalised here, on the device, with ImageNet's mean and deviation. Stages before
    `finetune_from` are frozen and their batch norms keep their statistics; so do those of the other stages unless
    `train_batch_norm`.

    He et al. 2015, "Deep residual learning for image recognition".
    """

    mean: Tensor
    std: Tensor

    def __init__(self, *, trunk: TrunkName, train_batch_norm: bool = False) -> None:
        super().__init__()
        self.name = trunk
        self.layout = TRUNKS[trunk]
        self.memory_size = self.layout.channels
        self.trunk = (
            SmallCNN()
            if trunk == "small_cnn"
            else torchvision.models.get_model(trunk, weights=None)
        )
        setattr(self.trunk, self.layout.classifier, nn.Identity())
        self.train_batch_norm = train_batch_norm
        self.frozen: tuple[str, ...] = ()  # names of the stages that do not learn
        self.register_buffer(
            "mean", torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1) * 255, persistent=False
        )
        self.register_buffer(
            "std", torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1) * 255, persistent=False
        )
        self.to(memory_format=torch.channels_last)
        self.finetune(None)

    def forward(self, source: Tensor) -> Memory:
        """Encode uint8 images (B, 3, height, width), or take up cached features (B, P, C)."""
        grid = self.features(source) if source.dim() == 4 else source.to(self.mean.dtype)
        mask = torch.ones(grid.shape[:2], dtype=torch.bool, device=grid.device)
        return Memory(summary=grid.mean(dim=1), grid=grid, mask=mask)

    def features(self, images: Tensor) -> Tensor:
        """(B, 3, height, width) uint8 → (B, P, C): the trunk alone."""
        x = ((images - self.mean) / self.std).contiguous(memory_format=torch.channels_last)
        for stage, modules in self.layout.stages.items():
            with torch.no_grad() if stage in self.frozen else nullcontext():
                for module in modules:
                    x = self.trunk.get_submodule(module)(x)
        return x.flatten(2).transpose(1, 2).to(self.mean.dtype)  # (B, C, h, w) → (B, P, C)

    def finetune(self, first: str | None) -> None:
        """Let the stages from `first` on learn, and freeze those before; `None` freezes all.

        Raises:
            UsageError: the trunk has no stage of that name.
        """
        stages = list(self.layout.stages)
        if first is not None and first not in stages:
            raise UsageError(
                f"{self.name} has no stage '{first}': choose one of {', '.join(stages)}"
            )
        start = len(stages) if first is None else stages.index(first)
        self.frozen = tuple(stages[:start])
        for index, stage in enumerate(stages):
            for module in self._stage(stage):
                module.requires_grad_(index >= start)
        self.train(self.training)

    def train(self, mode: bool = True) -> Self:
        """Set the mode, but leave alone the batch norms whose statistics are to be kept."""
        super().train(mode)
        for stage in self.layout.stages:
            if stage in self.frozen:
                for module in self._stage(stage):
                    module.eval()
        if not self.train_batch_norm:
            for module in self.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.eval()
        return self

    def _stage(self, name: str) -> Sequence[nn.Module]:
        return [self.trunk.get_submodule(module) for module in self.layout.stages[name]]

    def load_trunk(self, weights: str) -> None:
        """Start from `default` (torchvision's ImageNet weights, downloaded once), `none`, or a state dict file.

        Raises:
            CaptionerError: they cannot be had, or the file does not hold exactly this trunk (its classifier aside).
        """
        if weights == "none":
            return
        state = (
            download_weights(self.name) if weights == "default" else read_state_dict(Path(weights))
        )
        state = {
            key: value
            for key, value in state.items()
            if not key.startswith(self.layout.classifier + ".")
        }
        try:
            self.trunk.load_state_dict(state)
        except RuntimeError as error:
            reason = " ".join(str(error).split())[:300]
            raise CaptionerError(
                f"encoder.weights={weights} does not fit encoder.trunk={self.name}: {reason}"
            ) from None


def fold_batch_norms(encoder: ImageEncoder) -> ImageEncoder:
    """Copy an encoder for inference, its batch norms multiplied into the convolutions before them.

    It sees the same, in three quarters of the time.
    """
    folded = deepcopy(encoder).eval()
    for parent in list(folded.trunk.modules()):
        for (before, convolution), (after, norm) in pairwise(list(parent.named_children())):
            if isinstance(convolution, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                parent.add_module(before, fuse_conv_bn_eval(convolution, norm))
                parent.add_module(after, nn.Identity())
    return folded.to(memory_format=torch.channels_last)
