"""Data-parallel training in the processes that torchrun starts. Without it there is one rank."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from captioner.errors import UsageError, parameter

if TYPE_CHECKING:
    from torch.distributed.distributed_c10d import Store

Item = TypeVar("Item")

# Parts of gloo's messages when another process closes its connection. Their type is RuntimeError.
_LOST_CONNECTION = ("Connection closed by peer", "Connection reset by peer", "Broken pipe")

_PERIOD = 0.2  # seconds between two looks at the store


def is_lost_connection(error: Exception) -> bool:
    """Return whether an error means that another rank has ended."""
    has_ranks = dist.is_available() and dist.is_initialized()
    return isinstance(error, dist.DistError) or (
        has_ranks and any(message in str(error) for message in _LOST_CONNECTION)
    )


@dataclass(frozen=True)
class Ranks:
    """This process among those of a run. The collective operations work for a single one too."""

    rank: int
    world_size: int
    device: torch.device
    store: Store | None = None  # shared by the ranks of a group

    @property
    def is_first(self) -> bool:
        """Whether this is rank 0, the only one that prints and saves."""
        return self.rank == 0

    def shard(self, items: Sequence[Item]) -> Sequence[Item]:
        """Return this rank's share of the items: every `world_size`-th one."""
        return items[self.rank :: self.world_size]

    def sum(self, tensor: Tensor) -> Tensor:
        """Return the sum of a tensor over the ranks."""
        if self.world_size > 1:
            tensor = tensor.clone()
            dist.all_reduce(tensor)
        return tensor

    def any(self, flag: bool) -> bool:
        """Return whether the flag is true on any rank."""
        return bool(self.sum(torch.tensor(int(flag), device=self.device)))

    def gather(self, value: Any) -> list[Any]:
        """Return the values of all ranks, on every rank."""
        if self.world_size == 1:
            return [value]
        values: list[Any] = [None] * self.world_size
        dist.all_gather_object(values, value)
        return values

    def wait(self) -> None:
        """Wait until every rank has reached this call."""
        if self.world_size > 1:
            dist.barrier()

    @contextmanager
    def first_rank_first(self) -> Iterator[None]:
        """Run the block on the first rank, then on the others, which read its cache.

        No rank leaves before all have run it. The block may take longer than the time-out of the
        group, because the ranks wait outside of it.

        Raises:
            DistError: the block has failed on another rank.
        """
        if self.store is None:
            yield
            return
        block = self.store.add(f"blocks/{self.rank}", 1)  # its number, the same on every rank
        if not self.is_first:
            self._wait_for(f"{block}/first", 1)
        try:
            yield
        except BaseException:
            self.store.add(f"{block}/failed", 1)
            raise
        if self.is_first:
            self.store.add(f"{block}/first", 1)
        self.store.add(f"{block}/done", 1)
        self._wait_for(f"{block}/done", self.world_size)

    def _wait_for(self, key: str, count: int) -> None:
        """Wait until `count` ranks have added 1 to a key."""
        assert self.store is not None
        failed = f"{key.partition('/')[0]}/failed"
        while self.store.add(key, 0) < count:
            if self.store.add(failed, 0):
                raise dist.DistError("another rank has failed")
            time.sleep(_PERIOD)

    def wrap(self, objective: nn.Module) -> nn.Module:
        """Return the objective with gradients averaged over the ranks."""
        if self.world_size == 1:
            return objective
        # DDP wraps the objective, not its model, because it handles only calls of `forward`.
        device_ids = [self.device] if self.device.type == "cuda" else None
        return DistributedDataParallel(objective, device_ids=device_ids, broadcast_buffers=False)


@contextmanager
def process_group(
    device: torch.device, *, timeout: timedelta = timedelta(hours=1)
) -> Iterator[Ranks]:
    """Join the processes that torchrun started: with gloo on a CPU, with NCCL on CUDA.

    Args:
        device: of this process; on CUDA, each rank takes a GPU of its own.
        timeout: of the start, of a collective operation and of the store, after which the other
            ranks count as lost.

    Raises:
        UsageError: there are more ranks than GPUs.
    """
    world_size = int(os.environ.get("WORLD_SIZE", "1"))
    if world_size == 1:
        yield Ranks(0, 1, device)
        return
    if device.type == "cuda":
        if device.index is not None:
            raise UsageError(
                f"{parameter('device')} '{device}' is one GPU, but each of {world_size} ranks "
                "takes one of its own: use 'cuda' or 'auto'"
            )
        device = _local_gpu()
    backend = "nccl" if device.type == "cuda" else "gloo"
    from torch.distributed.distributed_c10d import PrefixStore
    from torch.distributed.rendezvous import rendezvous

    store, rank, _ = next(rendezvous("env://", timeout=timeout))
    dist.init_process_group(
        backend,
        store=PrefixStore("group", store),
        rank=rank,
        world_size=world_size,
        timeout=timeout,
    )
    try:
        yield Ranks(rank, world_size, device, PrefixStore("ranks", store))
    finally:
        dist.destroy_process_group()


def _local_gpu() -> torch.device:
    local_rank, num_gpus = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
    if local_rank >= num_gpus:
        raise UsageError(
            f"rank {local_rank} has no GPU, this machine has {num_gpus}: "
            f"start one rank for each GPU, with torchrun --nproc-per-node {num_gpus}"
        )
    torch.cuda.set_device(local_rank)
    return torch.device("cuda", local_rank)
