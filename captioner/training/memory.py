"""What lacks memory, and how to take a step back that found too little of it."""

from __future__ import annotations

import gc

import torch
from torch import nn

from captioner.training.checkpoint import random_state, restore_random_state

_CPU = ("can't allocate memory", "could not create a primitive")  # what torch says, and oneDNN in it


def is_out_of_memory(error: BaseException) -> bool:
    """Tell a lack of memory from other errors: a GPU's has a type of its own, a CPU's is known by its words."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or any(words in str(error) for words in _CPU)


class Retreat:
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
