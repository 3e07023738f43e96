"""Losses as sums with their counts, so that padding, accumulation and several ranks are exact."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

_LOGITS_AT_ONCE = 2**23  # 32 MiB of float32: stays in a CPU's cache, and fills a GPU


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
        return float(self.total.detach() / self.count)


def cross_entropy(hidden: Tensor, output: nn.Linear, targets: Tensor, *, label_smoothing: float = 0.0) -> LossSum:
    """Ask each hidden vector (M, H) for its word (M,): only real words ever reach the vocabulary projection.

    Equal to `F.cross_entropy(output(hidden), targets, reduction="sum")`, but the logits (M, V) never stand in memory
    as a whole: rows are projected, scored and turned into gradients a few at a time, while they are in the cache
    (Wijmans et al. 2024, "Cut your losses in large-vocabulary language models").
    """
    total: Tensor = _LinearCrossEntropy.apply(hidden, output.weight, output.bias, targets, label_smoothing)
    return LossSum(total, targets.new_tensor(targets.numel()))


class _LinearCrossEntropy(torch.autograd.Function):
    """Projection and cross-entropy in one. Gradients are made on the way forward and only scaled on the way back."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor, targets: Tensor, smoothing: float) -> Tensor:
        kind = hidden.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else weight.dtype
        learns = any(ctx.needs_input_grad)
        weights = weight.to(dtype)  # (V, H)
        words = weight.shape[0]
        rows = max(1, _LOGITS_AT_ONCE // words)
        total = hidden.new_zeros((), dtype=torch.float32)
        of_hidden, of_weight, of_bias = [], torch.zeros_like(weight), torch.zeros_like(bias)
        for part, target in zip(
            torch.split(hidden.to(dtype), rows), torch.split(targets.unsqueeze(1), rows), strict=True
        ):
            log_probs = torch.addmm(bias.to(dtype), part, weights.t()).float().log_softmax(dim=1)  # (rows, V)
            total -= (1 - smoothing) * log_probs.gather(1, target).sum()
            if smoothing:
                total -= smoothing / words * log_probs.sum()
            if learns:
                error = log_probs.exp_()  # the gradient of the logits: what was said less what was to be said
                if smoothing:
                    error -= smoothing / words
                error.scatter_add_(1, target, torch.full_like(target, smoothing - 1, dtype=error.dtype))
                of_bias += error.sum(dim=0)
                error = error.to(dtype)
                of_hidden.append(error @ weights)
                of_weight += error.t() @ part
        if learns:
            ctx.save_for_backward(torch.cat(of_hidden).to(hidden.dtype), of_weight, of_bias)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        scale = gradients[0]
        of_hidden, of_weight, of_bias = ctx.saved_tensors
        return scale.to(of_hidden.dtype) * of_hidden, scale * of_weight, scale * of_bias, None, None
