"""The image encoder: a trunk without its classifier, whose stages can be frozen or trained."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Self

import torch
from torch import Tensor, nn

from captioner.config.schema import RGB
from captioner.config.trunks import TrunkName
from captioner.errors import CaptionerError, UsageError
from captioner.models.backbones import build_trunk
from captioner.models.weights import read_trunk_weights
from captioner.types import Memory


class ImageEncoder(nn.Module):
    """Encode images: the trunk's last feature map as the grid, its mean as the summary.

    Images are uint8 and normalised here, on the device, with the trunk's mean and standard
    deviation, unless others are given. All stages are frozen until you call `finetune`. The batch
    norms of frozen stages keep their running statistics; those of other stages too, unless
    `train_batch_norm`.

    He et al. 2015, "Deep residual learning for image recognition".
    """

    mean: Tensor  # (3, 1, 1), for pixels from 0 to 255
    std: Tensor  # (3, 1, 1)

    def __init__(
        self,
        *,
        trunk: TrunkName,
        image_size: int | None = None,
        mean: RGB | None = None,
        std: RGB | None = None,
        train_batch_norm: bool = False,
    ) -> None:
        super().__init__()
        self.name = trunk
        # no download here: `load_trunk` sets the weights, or a model folder's state dict
        self.trunk, layout = build_trunk(trunk, image_size=image_size)
        self.layout = replace(layout, mean=mean or layout.mean, std=std or layout.std)
        self.memory_size = layout.channels  # C
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
        # the weights of frozen stages need no gradient, so that no activations are stored for them
        x = self.layout.run(self.trunk, x)
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
        # what is in no stage, such as the position embedding of a transformer, is part of the first
        self.trunk.requires_grad_(start == 0)
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
                if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
                    module.eval()
        return self

    def _stage(self, name: str) -> Sequence[nn.Module]:
        return [self.trunk.get_submodule(module) for module in self.layout.stages[name]]

    def load_trunk(self, weights: str) -> None:
        """Load the trunk's weights; `weights` is `default`, `none`, a state dict or a model folder.

        `default` are pretrained weights: see `read_trunk_weights`.

        Raises:
            CaptionerError: the weights cannot be downloaded or read, or they are not exactly those
                of this trunk. Weights of a classifier are ignored.
        """
        if weights == "none":
            return
        classifier = self.layout.classifier + "."  # of ImageNet's 1,000 classes, which is not used
        state = {
            key: value
            for key, value in read_trunk_weights(self.name, weights, self.layout.image_size).items()
            if not key.startswith(classifier)
        }
        try:
            self.trunk.load_state_dict(state)
        except RuntimeError as error:
            reason = " ".join(str(error).split())[:300]
            raise CaptionerError(
                f"encoder.weights={weights} does not fit encoder.trunk={self.name}: {reason}"
            ) from None
