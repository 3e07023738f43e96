"""Several processes as one: under torchrun they share a step; without it there is one rank and nothing to wait for."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from captioner.errors import UsageError

Thing = TypeVar("Thing")

_LOST = ("Connection closed by peer", "Connection reset by peer", "Broken pipe")  # what gloo says


def is_lost(error: Exception) -> bool:
    """Tell by its words the error of a rank that another one has left alone."""
    return isinstance(error, dist.DistError) or any(words in str(error) for words in _LOST)


@dataclass(frozen=True)
class Ranks:
    """Which process this is, of how many, and where it computes."""

    rank: int
    count: int
    device: torch.device

    @property
    def is_first(self) -> bool:
        """Whether this is the one that prints and saves."""
        return self.rank == 0

    def share(self, things: Sequence[Thing]) -> Sequence[Thing]:
        """Give this rank's part of what is dealt out to all."""
        return things[self.rank :: self.count]

    def sum(self, tensor: Tensor) -> Tensor:
        """Add up over ranks."""
        if self.count > 1:
            tensor = tensor.clone()
            dist.all_reduce(tensor)
        return tensor

    def any(self, told: bool) -> bool:
        """Whether any rank was told to."""
        return bool(self.sum(torch.tensor(int(told), device=self.device)))

    def gather(self, value: Any) -> list[Any]:
        """Every rank's value, on every rank."""
        if self.count == 1:
            return [value]
        values: list[Any] = [None] * self.count
        dist.all_gather_object(values, value)
        return values

    def wait(self) -> None:
        """Wait for the others."""
        if self.count > 1:
            dist.barrier()

    @contextmanager
    def first_goes_first(self) -> Iterator[None]:
        """Let the first rank do what the others then find done, such as filling a cache."""
        if not self.is_first:
            self.wait()
        yield
        if self.is_first:
            self.wait()

    def wrap(self, objective: nn.Module) -> nn.Module:
        """Average gradients over ranks. It must be the objective: DDP sees only what goes through its `forward`."""
        if self.count == 1:
            return objective
        devices = [self.device] if self.device.type == "cuda" else None
        return DistributedDataParallel(objective, device_ids=devices, broadcast_buffers=False)


@contextmanager
def process_group(device: torch.device) -> Iterator[Ranks]:
    """Join the other processes that torchrun started: gloo on a CPU, NCCL on CUDA.

    Raises:
        UsageError: there are more ranks than GPUs.
    """
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if count == 1:
        yield Ranks(0, 1, device)
        return
    if device.type == "cuda":
        local = int(os.environ.get("LOCAL_RANK", "0"))
        if local >= torch.cuda.device_count():
            raise UsageError(
                f"rank {local} has no GPU of its own: torchrun --nproc-per-node {torch.cuda.device_count()}"
            )
        device = torch.device("cuda", local)
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=timedelta(hours=1))
    try:
        yield Ranks(dist.get_rank(), count, device)
    finally:
        dist.destroy_process_group()
