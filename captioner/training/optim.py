"""The optimiser and its learning rates."""

from __future__ import annotations

import math
from typing import Any

import torch

from captioner.config.schema import PhaseConfig
from captioner.errors import UsageError
from captioner.models.encoder_decoder import EncoderDecoder


def make_optimizer(
    model: EncoderDecoder, phase: PhaseConfig, *, weight_decay: float
) -> torch.optim.AdamW:
    """AdamW over what learns in this phase: the trunk at its own, lower rate; no decay of biases and batch norms.

    Loshchilov and Hutter 2019, "Decoupled weight decay regularization".
    """
    groups = []
    for module, rate in (
        (model.encoder, phase.trunk_learning_rate),
        (model.decoder, phase.learning_rate),
    ):
        learning = [parameter for parameter in module.parameters() if parameter.requires_grad]
        matrices = [parameter for parameter in learning if parameter.dim() > 1]
        vectors = [parameter for parameter in learning if parameter.dim() <= 1]
        groups.append({"params": matrices, "peak": rate, "weight_decay": weight_decay})
        groups.append({"params": vectors, "peak": rate, "weight_decay": 0.0})
    return torch.optim.AdamW(
        [group for group in groups if group["params"]], lr=phase.learning_rate, fused=True
    )


def restore_optimizer(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Go on from what an optimizer's `state_dict` gave.

    Raises:
        UsageError: it was an optimizer of other weights.
    """
    try:
        optimizer.load_state_dict(state)
    except (KeyError, ValueError) as error:
        raise UsageError(
            f"the checkpoint does not fit this phase ({error}): go on with the training.phases that the run began with"
        ) from error


def set_learning_rate(
    optimizer: torch.optim.Optimizer, *, step: int, steps: int, warmup: float
) -> float:
    """Set every group's rate for step `step` of `steps` and return the highest: linear warm-up, then a cosine to zero.

    Loshchilov and Hutter 2017, "SGDR: stochastic gradient descent with warm restarts", equation 5.
    """
    warm = max(1, round(warmup * steps))
    cosine = 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm)))
    factor = (step + 1) / warm if step < warm else cosine
    for group in optimizer.param_groups:
        group["lr"] = group["peak"] * factor
    highest: float = max(group["lr"] for group in optimizer.param_groups)
    return highest
