"""Losses as sums with their counts, so that padding, accumulation and several ranks are exact."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional as F


@dataclass(frozen=True)
class LossSum:
    """A sum and how many things were summed: add over batches and ranks, divide once."""

    total: Tensor
    count: Tensor

    def __add__(self, other: LossSum) -> LossSum:
        return LossSum(self.total + other.total, self.count + other.count)

    @property
    def mean(self) -> float:
        """The loss of one word."""
        return float(self.total / self.count)


def cross_entropy(hidden: Tensor, output: nn.Linear, targets: Tensor, *, label_smoothing: float = 0.0) -> LossSum:
    """Ask each hidden vector (M, H) for its word (M,): only real words ever reach the vocabulary projection."""
    logits = output(hidden).float()  # (M, V)
    total = F.cross_entropy(logits, targets, reduction="sum", label_smoothing=label_smoothing)
    return LossSum(total, targets.new_tensor(targets.numel()))
