"""The image encoder: a CNN without its classifier, whose stages can be frozen or trained."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from copy import deepcopy
from itertools import pairwise
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from captioner.config.schema import TrunkName
from captioner.errors import CaptionerError, UsageError
from captioner.models.backbones import TRUNKS, build_backbone
from captioner.models.weights import read_trunk_weights
from captioner.types import Memory


class ImageEncoder(nn.Module):
    """Encode images: the CNN's last feature map as the grid, its mean as the summary.

    Images are uint8 and normalised here, on the device, with the trunk's mean and standard
    deviation. All stages are frozen until you call `finetune`. The batch norms of frozen stages
    keep their running statistics; those of other stages too, unless `train_batch_norm`.

    He et al. 2015, "Deep residual learning for image recognition".
    """

    mean: Tensor  # (3, 1, 1), for pixels from 0 to 255
    std: Tensor  # (3, 1, 1)

    def __init__(self, *, trunk: TrunkName, train_batch_norm: bool = False) -> None:
        super().__init__()
        self.name = trunk
        self.layout = TRUNKS[trunk]
        self.memory_size = self.layout.channels  # C
        # no download here: `load_trunk` sets the weights, or a model folder's state dict
        self.trunk = build_backbone(trunk)
        self.train_batch_norm = train_batch_norm
        self.frozen: tuple[str, ...] = ()  # names of the stages that are not trained
        for name, values in (("mean", self.layout.mean), ("std", self.layout.std)):
            # constants for pixels from 0 to 255: not part of the state dict
            self.register_buffer(name, torch.tensor(values).view(3, 1, 1) * 255, persistent=False)
        self.to(memory_format=torch.channels_last)  # the faster layout for convolutions
        self.finetune(None)

    def forward(self, source: Tensor) -> Memory:
        """Encode uint8 images (B, 3, height, width), or wrap cached features (B, P, C)."""
        is_image = source.dim() == 4
        grid = self.features(source) if is_image else source.to(self.mean.dtype)  # (B, P, C)
        mask = torch.ones(grid.shape[:2], dtype=torch.bool, device=grid.device)  # no padding
        return Memory(summary=grid.mean(dim=1), grid=grid, mask=mask)  # summary (B, C)

    def features(self, images: Tensor) -> Tensor:
        """Run the trunk on images (B, 3, height, width) uint8 and return its grid (B, P, C)."""
        x = ((images - self.mean) / self.std).contiguous(memory_format=torch.channels_last)
        for stage in self.layout.stages:
            # no activations are stored for the backward pass of frozen stages
            with torch.no_grad() if stage in self.frozen else nullcontext():
                for module in self._stage(stage):
                    x = module(x)
        return x.flatten(2).transpose(1, 2).to(self.mean.dtype)  # (B, C, h, w) → (B, P, C)

    def finetune(self, first: str | None) -> None:
        """Train the stages from `first` on and freeze those before it; `None` freezes all.

        Raises:
            UsageError: the trunk has no stage of that name.
        """
        stages = list(self.layout.stages)
        if first is not None and first not in stages:
            raise UsageError(
                f"{self.name} has no stage '{first}': choose one of {', '.join(stages)}"
            )
        start = len(stages) if first is None else stages.index(first)  # the first trained stage
        self.frozen = tuple(stages[:start])
        # stages run in this order, so the gradient stops at the last frozen one
        for index, stage in enumerate(stages):
            for module in self._stage(stage):
                module.requires_grad_(index >= start)
        self.train(self.training)  # updates the mode of the batch norms

    def train(self, mode: bool = True) -> Self:
        """Set the mode, but keep frozen stages, and batch norms not to be trained, in eval mode."""
        super().train(mode)
        # running statistics change in train mode, whether or not the weights are trained
        for stage in self.frozen:
            for module in self._stage(stage):
                module.eval()
        if not self.train_batch_norm:
            # small batches of few images would spoil ImageNet's statistics
            for module in self.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.eval()
        return self

    def _stage(self, name: str) -> Sequence[nn.Module]:
        return [self.trunk.get_submodule(module) for module in self.layout.stages[name]]

    def load_trunk(self, weights: str) -> None:
        """Load the trunk's weights; `weights` is `default`, `none`, a state dict or a model folder.

        `default` are ImageNet weights: see `read_trunk_weights`.

        Raises:
            CaptionerError: the weights cannot be downloaded or read, or they are not exactly those
                of this trunk. Weights of a classifier are ignored.
        """
        if weights == "none":
            return
        classifier = self.layout.classifier + "."  # of ImageNet's 1,000 classes, which is not used
        state = {
            key: value
            for key, value in read_trunk_weights(self.name, weights).items()
            if not key.startswith(classifier)
        }
        try:
            self.trunk.load_state_dict(state)
        except RuntimeError as error:
            reason = " ".join(str(error).split())[:300]
            raise CaptionerError(
                f"encoder.weights={weights} does not fit encoder.trunk={self.name}: {reason}"
            ) from None


def fold_batch_norms(encoder: ImageEncoder) -> ImageEncoder:
    """Copy an encoder for inference, with each batch norm folded into the convolution before it.

    The copy computes the same features in three quarters of the time.
    """
    folded = deepcopy(encoder).eval()
    for parent in list(folded.trunk.modules()):
        for (name, convolution), (norm_name, norm) in pairwise(list(parent.named_children())):
            # in eval mode y = a (w x) + b per channel: one convolution with weights a w, bias b
            if isinstance(convolution, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                parent.add_module(name, fuse_conv_bn_eval(convolution, norm))
                parent.add_module(norm_name, nn.Identity())
    return folded.to(memory_format=torch.channels_last)
