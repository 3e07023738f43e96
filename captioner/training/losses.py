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

    def plus(self, penalty: Tensor) -> LossSum:
        """Add to the sum, with nothing more to count."""
        return LossSum(self.total + penalty, self.count)

    @property
    def mean(self) -> float:
        """The loss of one word."""
        return float(self.total.detach() / self.count)


def cross_entropy(
    hidden: Tensor,
    output: nn.Linear,
    targets: Tensor,
    *,
    label_smoothing: float = 0.0,
    weights: Tensor | None = None,
) -> LossSum:
    """Ask each hidden vector (M, D) for its word (M,): only real words ever reach the vocabulary projection.

    Equal to `F.cross_entropy(output(hidden), targets, reduction="sum")`, each word times its weight (M,) if these are
    given, but the logits (M, V) never stand in memory as a whole: rows are projected, scored and turned into gradients
    a few at a time, while they are in the cache (Wijmans et al. 2024, "Cut your losses in large-vocabulary language
    models").
    """
    total: Tensor = _LinearCrossEntropy.apply(
        hidden, output.weight, output.bias, targets, label_smoothing, weights
    )
    return LossSum(total, targets.new_tensor(targets.numel()))


class _LinearCrossEntropy(torch.autograd.Function):
    """Projection and cross-entropy in one. Gradients are made on the way forward and only scaled on the way back."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor,
        targets: Tensor,
        smoothing: float,
        importance: Tensor | None,
    ) -> Tensor:
        kind = hidden.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else weight.dtype
        learns = any(ctx.needs_input_grad)
        weights = weight.to(dtype)  # (V, D)
        words = weight.shape[0]
        rows = max(1, _LOGITS_AT_ONCE // words)
        total = hidden.new_zeros((), dtype=torch.float32)
        of_hidden, of_weight, of_bias = [], torch.zeros_like(weight), torch.zeros_like(bias)
        weighted = importance is not None
        importance = (
            hidden.new_ones(()) if importance is None else importance.unsqueeze(1)
        )  # (M, 1)
        parts = (hidden.to(dtype), targets.unsqueeze(1), importance.expand(len(hidden), 1))
        for part, target, times in zip(
            *(torch.split(tensor, rows) for tensor in parts), strict=True
        ):
            log_probs = (
                torch.addmm(bias.to(dtype), part, weights.t()).float().log_softmax(dim=1)
            )  # (rows, V)
            total -= (1 - smoothing) * (times * log_probs.gather(1, target)).sum()
            if smoothing:
                total -= smoothing / words * (times * log_probs.sum(dim=1, keepdim=True)).sum()
            if learns:
                error = (
                    log_probs.exp_()
                )  # the gradient of the logits: what was said less what was to be said
                if smoothing:
                    error -= smoothing / words
                error.scatter_add_(
                    1, target, torch.full_like(target, smoothing - 1, dtype=error.dtype)
                )
                if weighted:
                    error *= times
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
        return (
            scale.to(of_hidden.dtype) * of_hidden,
            scale * of_weight,
            scale * of_bias,
            None,
            None,
            None,
        )


def doubly_stochastic(weights: Tensor, mask: Tensor) -> Tensor:
    """Penalise attention (M, P) for every caption and place by (1 - what the place was given over the caption) ** 2.

    `mask` (N, T) tells which words the rows of `weights` are. Xu et al. 2015, section 4.2.1.
    """
    caption = mask.nonzero()[:, 0]  # (M,)
    given = weights.new_zeros((len(mask), weights.shape[1])).index_add(
        0, caption, weights
    )  # (N, P)
    return (1 - given).square().sum()
