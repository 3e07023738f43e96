"""The training loop: takes steps. Knows neither images nor words; saving and validating are handed in."""

from __future__ import annotations

import gc
import itertools
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from captioner.config.schema import PrecisionName
from captioner.devices import autocast
from captioner.distributed import Ranks
from captioner.errors import CaptionerError
from captioner.training.checkpoint import random_state, restore_random_state
from captioner.training.losses import LossSum
from captioner.types import Batch


def in_groups(batches: Iterable[Batch], size: int) -> Iterator[list[Batch]]:
    """Gather the parts of each step."""
    parts = iter(batches)
    while group := list(itertools.islice(parts, size)):
        yield group


class NotFiniteError(CaptionerError):
    """The loss of a batch or its gradient is infinite or not a number: no step was taken."""

    def __init__(self, loss: float, norm: float, parts: list[Batch]) -> None:
        super().__init__(
            f"the loss ({loss:.3g}) or its gradient ({norm:.3g}) is not a finite number, so no step was taken"
        )
        self.loss, self.norm, self.parts = loss, norm, parts


Count = Callable[[Batch], Tensor]
"""How many things the objective's loss of a batch is a sum of: words, as a rule."""


def gradients(
    objective: nn.Module,
    parts: list[Batch],
    *,
    count: Count,
    ranks: Ranks,
    precision: PrecisionName,
) -> LossSum:
    """Add to every parameter the gradient of the mean loss, over all `parts` and ranks, exactly.

    The words are counted first, so each part is divided by the same number; DDP's mean over ranks is undone.
    """
    parts = [part.to(ranks.device) for part in parts]
    words = ranks.sum(torch.stack([count(part) for part in parts]).sum())
    total = torch.zeros((), device=ranks.device)
    for index, part in enumerate(parts):
        last = index == len(parts) - 1
        waits = isinstance(objective, DistributedDataParallel) and not last
        with objective.no_sync() if waits else nullcontext():  # type: ignore[operator]
            with autocast(ranks.device, precision):
                loss: LossSum = objective(part)
            (loss.total * (ranks.count / words)).backward()  # type: ignore[no-untyped-call]
        total += loss.total.detach()
    return LossSum(ranks.sum(total), words)


def fit(
    objective: nn.Module,
    optimizer: torch.optim.Optimizer,
    steps: Iterable[list[Batch]],
    *,
    count: Count,
    ranks: Ranks,
    precision: PrecisionName,
    gradient_clip: float,
    before_step: Callable[[], None],
    after_step: Callable[[LossSum], bool],
) -> None:
    """Take a step for each group of batches, until `after_step` says that it is enough.

    Raises:
        NotFiniteError: the step is not taken; the weights are the last good ones.
    """
    learning: list[Tensor] = [
        weight for group in optimizer.param_groups for weight in group["params"]
    ]
    for parts in steps:
        before_step()
        optimizer.zero_grad(set_to_none=True)
        loss = gradients(objective, parts, count=count, ranks=ranks, precision=precision)
        norm = nn.utils.clip_grad_norm_(learning, gradient_clip)
        if not norm.isfinite() or not loss.total.isfinite():
            raise NotFiniteError(loss.mean, float(norm), parts)
        optimizer.step()
        if after_step(loss):
            return


_CPU = (
    "can't allocate memory",
    "could not create a primitive",
)  # what torch says, and oneDNN in it


def is_out_of_memory(error: BaseException) -> bool:
    """Tell a lack of memory from other errors: a GPU's has a type of its own, a CPU's is known by its words."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or any(
        words in str(error) for words in _CPU
    )


class StepRollback:
    """What a step changes before it is taken, as it was: chance, and the statistics of batch norms."""

    def __init__(self, module: nn.Module, device: torch.device) -> None:
        self.module, self.device = module, device
        self.chance = random_state(device)
        self.buffers = [(buffer, buffer.clone()) for buffer in module.buffers()]

    def take(self) -> None:
        """Put that back, and let go of all the memory that the step took."""
        restore_random_state(self.chance, self.device)
        for buffer, before in self.buffers:
            buffer.copy_(before)
        self.module.zero_grad(set_to_none=True)
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
