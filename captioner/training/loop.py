"""The training step: sum gradients over micro-batches and ranks, clip them, update the weights."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from captioner.devices import PrecisionName, autocast
from captioner.distributed import Ranks
from captioner.errors import CaptionerError
from captioner.training.losses import LossSum
from captioner.training.objectives import ObjectiveOutput
from captioner.types import Batch

CountTerms = Callable[[Batch], Tensor]
"""Batch -> number of terms of its loss, without computing the loss: see `Objective.count`."""


class NotFiniteError(CaptionerError):
    """The loss of a batch or its gradient is infinite or not a number. No step was taken."""

    def __init__(self, loss: float, gradient_norm: float, micro_batches: list[Batch]) -> None:
        super().__init__(
            f"the loss ({loss:.3g}) or the norm of its gradient ({gradient_norm:.3g}) is not a "
            "finite number, so no step was taken"
        )
        self.loss, self.gradient_norm = loss, gradient_norm
        self.micro_batches = micro_batches


def group_micro_batches(micro_batches: Iterable[Batch], size: int) -> Iterator[list[Batch]]:
    """Yield the micro-batches of each step, `size` at a time."""
    remaining = iter(micro_batches)
    while group := list(itertools.islice(remaining, size)):
        yield group


def train_step(
    objective: nn.Module,
    optimizer: torch.optim.Optimizer,
    micro_batches: list[Batch],
    *,
    count: CountTerms,
    ranks: Ranks,
    precision: PrecisionName,
    gradient_clip: float,
    progress: float = 0.0,
) -> ObjectiveOutput:
    """Update the weights once, from all micro-batches of all ranks.

    Args:
        objective: an `Objective`, or one that `Ranks.wrap` has wrapped.
        optimizer: of all trainable weights.
        micro_batches: this rank's share of the batch.
        count: the `count` of the objective.
        ranks: the processes that share this step.
        precision: of the forward pass.
        gradient_clip: the largest norm of the gradient; a larger one is scaled down.
        progress: share of the phase's steps already taken.

    Returns:
        The loss over all micro-batches and ranks.

    Raises:
        NotFiniteError: the loss or its gradient is not finite; the weights have not changed.
    """
    optimizer.zero_grad(set_to_none=True)
    output = accumulate_gradients(
        objective, micro_batches, progress=progress, count=count, ranks=ranks, precision=precision
    )
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    norm = nn.utils.clip_grad_norm_(weights, gradient_clip)
    if not norm.isfinite() or not output.loss.total.isfinite():
        raise NotFiniteError(output.loss.mean, float(norm), micro_batches)
    optimizer.step()
    return output


def accumulate_gradients(
    objective: nn.Module,
    micro_batches: list[Batch],
    *,
    progress: float,
    count: CountTerms,
    ranks: Ranks,
    precision: PrecisionName,
) -> ObjectiveOutput:
    """Add to every parameter the gradient of the mean loss over all micro-batches and ranks.

    The result equals that of one large batch: the terms of the loss are counted first, over all
    micro-batches and ranks, and each loss sum is divided by the same count before `backward`.
    """
    micro_batches = [batch.to(ranks.device) for batch in micro_batches]
    terms = ranks.sum(torch.stack([count(batch) for batch in micro_batches]).sum())  # scalar int64
    zero = torch.zeros((), device=ranks.device)
    summed = LossSum(zero, zero.long())  # over this rank's micro-batches
    for index, batch in enumerate(micro_batches):
        # DDP averages gradients over ranks in `backward`; once a step is enough.
        is_last = index == len(micro_batches) - 1
        skips_averaging = isinstance(objective, DistributedDataParallel) and not is_last
        with objective.no_sync() if skips_averaging else nullcontext():  # type: ignore[operator]
            with autocast(ranks.device, precision):
                output: ObjectiveOutput = objective(batch, progress)
            # The factor `world_size` turns DDP's mean over ranks into a sum.
            scaled = output.loss.total * (ranks.world_size / terms)
            scaled.backward()  # type: ignore[no-untyped-call]
        loss = output.loss
        summed += LossSum(loss.total.detach(), loss.count, loss.penalties)
    # The metrics are those of the last micro-batch.
    penalties = {name: ranks.sum(penalty) for name, penalty in summed.penalties.items()}
    return ObjectiveOutput(LossSum(ranks.sum(summed.total), terms, penalties), output.metrics)
