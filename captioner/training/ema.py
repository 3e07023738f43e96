"""A smoother model than the last one: the moving average of the weights. Knows nothing of what the weights do."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


class EMA:
    """Average a module's floating-point parameters and buffers over steps, exponentially: old ones count ever less.

    average ← decay * average + (1 - decay) * weights (Polyak and Juditsky 1992, "Acceleration of stochastic
    approximation by averaging"), where after n updates the decay is min(decay, (1 + n) / (10 + n)), so that the
    weights of the start are soon forgotten (`num_updates` of TensorFlow's ExponentialMovingAverage). Batch norms'
    statistics are averaged as the weights are. A decay of 0 averages nothing and costs nothing: the module stands
    for itself.
    """

    def __init__(self, module: nn.Module, *, decay: float) -> None:
        self.module, self.decay = module, decay
        self.updates = 0
        self.average = (
            {name: tensor.clone() for name, tensor in self._weights().items()} if decay else {}
        )

    def _weights(self) -> dict[str, Tensor]:
        return {
            name: tensor
            for name, tensor in self.module.state_dict().items()
            if tensor.is_floating_point()
        }

    @torch.no_grad()
    def update(self) -> None:
        """Take in the weights after a step."""
        if not self.average:
            return
        frozen = {
            name for name, weight in self.module.named_parameters() if not weight.requires_grad
        }  # stand still
        moving = {name: tensor for name, tensor in self._weights().items() if name not in frozen}
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        torch._foreach_lerp_(
            [self.average[name] for name in moving], list(moving.values()), 1 - decay
        )
        self.updates += 1

    def apply(self) -> None:
        """Set the module to the average, to go on from there."""
        self.module.load_state_dict(self.average, strict=False)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Set the module to the average for as long as the block lasts: to validate it, or to save it."""
        weights = {
            name: tensor.clone() for name, tensor in self._weights().items() if name in self.average
        }
        self.apply()
        try:
            yield
        finally:
            self.module.load_state_dict(weights, strict=False)

    def state_dict(self) -> dict[str, Any]:
        """Give what a checkpoint keeps."""
        return {"updates": self.updates, "average": self.average}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what `state_dict` gave; an average that is new to the run starts from the module as it is."""
        if self.average and state["average"]:
            self.updates = state["updates"]
            for name, tensor in self.average.items():
                tensor.copy_(state["average"][name])
