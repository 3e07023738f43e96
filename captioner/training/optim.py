"""The optimizer, its learning rate schedule, and the exponential moving average of the weights."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from captioner.config.training import PhaseConfig
from captioner.errors import UsageError
from captioner.models.encoder import ImageEncoder
from captioner.models.encoder_decoder import EncoderDecoder


def make_optimizer(
    model: EncoderDecoder, phase: PhaseConfig, *, weight_decay: float
) -> torch.optim.AdamW:
    """Return AdamW over the trainable weights of a phase.

    The trunk of an image encoder has a learning rate of its own. Biases and batch norms have no
    weight decay. Each group stores the peak of its learning rate as "peak". Loshchilov and Hutter
    2019, "Decoupled weight decay regularization".
    """
    groups = []
    is_pretrained = isinstance(model.encoder, ImageEncoder)
    encoder_peak = phase.trunk_learning_rate if is_pretrained else phase.learning_rate
    for module, peak in ((model.encoder, encoder_peak), (model.decoder, phase.learning_rate)):
        trainable = [parameter for parameter in module.parameters() if parameter.requires_grad]
        matrices = [parameter for parameter in trainable if parameter.dim() > 1]
        vectors = [parameter for parameter in trainable if parameter.dim() <= 1]
        groups += [
            {"params": matrices, "peak": peak, "weight_decay": weight_decay},
            {"params": vectors, "peak": peak, "weight_decay": 0.0},
        ]
    return torch.optim.AdamW(
        [group for group in groups if group["params"]], lr=phase.learning_rate, fused=True
    )


def restore_optimizer(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Load a state dict of the optimizer.

    Raises:
        UsageError: it belongs to an optimizer of other weights.
    """
    try:
        optimizer.load_state_dict(state)
    except (KeyError, ValueError) as error:
        raise UsageError(
            f"the checkpoint does not fit this phase ({error}): resume with the training.phases "
            "that the run started with"
        ) from error


def set_learning_rate(
    optimizer: torch.optim.Optimizer, *, step: int, steps: int, warmup: float
) -> float:
    """Set the learning rate of every group for a step of a phase, and return the highest one.

    Linear warm-up to the peak in a share `warmup` of the `steps`, then cosine annealing to zero
    (Loshchilov and Hutter 2017, "SGDR: stochastic gradient descent with warm restarts", equation 5,
    without restarts). `step` counts from 0.
    """
    warmup_steps = max(1, round(warmup * steps))
    angle = math.pi * (step - warmup_steps) / max(1, steps - warmup_steps)  # 0 to pi
    cosine = 0.5 * (1 + math.cos(angle))
    factor = (step + 1) / warmup_steps if step < warmup_steps else cosine
    for group in optimizer.param_groups:
        group["lr"] = group["peak"] * factor
    return float(max(group["lr"] for group in optimizer.param_groups))


class EMA:
    """Exponential moving average of the floating-point parameters and buffers of a module.

    average = decay * average + (1 - decay) * weights (Polyak and Juditsky 1992, "Acceleration of
    stochastic approximation by averaging"). After n updates, the decay is
    min(decay, (1 + n) / (10 + n)), so that the first weights soon have little effect (as with
    `num_updates` in TensorFlow's ExponentialMovingAverage). Batch norm statistics are averaged as
    weights are. With a decay of 0 nothing is averaged or stored, and every method leaves the module
    as it is.
    """

    def __init__(self, module: nn.Module, *, decay: float) -> None:
        self.module, self.decay = module, decay
        self.updates = 0
        self.average = (
            {name: tensor.clone() for name, tensor in self._weights().items()} if decay else {}
        )

    def _weights(self) -> dict[str, Tensor]:
        state = self.module.state_dict()
        return {name: tensor for name, tensor in state.items() if tensor.is_floating_point()}

    @torch.no_grad()
    def update(self) -> None:
        """Add the module's present weights to the average, after a step."""
        if not self.average:
            return
        frozen = {
            name for name, weight in self.module.named_parameters() if not weight.requires_grad
        }
        moving = {name: tensor for name, tensor in self._weights().items() if name not in frozen}
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        torch._foreach_lerp_(
            [self.average[name] for name in moving], list(moving.values()), 1 - decay
        )
        self.updates += 1

    def apply(self) -> None:
        """Set the module's weights to the average."""
        self.module.load_state_dict(self.average, strict=False)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Set the module's weights to the average within the block, to validate or save it."""
        weights = {
            name: tensor.clone() for name, tensor in self._weights().items() if name in self.average
        }
        self.apply()
        try:
            yield
        finally:
            self.module.load_state_dict(weights, strict=False)

    def state_dict(self) -> dict[str, Any]:
        """Return the average and the number of updates, for a checkpoint."""
        return {"updates": self.updates, "average": self.average}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Load what `state_dict` returned, if the run that saved it had an average."""
        if self.average and state["average"]:
            self.updates = state["updates"]
            for name, tensor in self.average.items():
                tensor.copy_(state["average"][name])
