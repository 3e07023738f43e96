"""Losses as sums with their counts, so that padding, accumulation and several ranks are exact."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

# Logits computed at a time: 32 MiB of float32, which fit a CPU's cache and keep a GPU busy.
_LOGITS_AT_ONCE = 2**23


@dataclass(frozen=True)
class LossSum:
    """A sum of losses and its number of terms: add over micro-batches and ranks, divide once."""

    total: Tensor
    count: Tensor  # int64
    penalties: Mapping[str, Tensor] = field(default_factory=dict)  # parts of `total` in training

    def __add__(self, other: LossSum) -> LossSum:
        penalties = dict(self.penalties)
        for name, penalty in other.penalties.items():
            penalties[name] = penalties.get(name, torch.zeros_like(penalty)) + penalty
        return LossSum(self.total + other.total, self.count + other.count, penalties)

    @property
    def mean(self) -> float:
        """The mean loss of a term: of a token in nats, or of a caption."""
        return float(self.total.detach() / self.count)


def cross_entropy(
    hidden: Tensor,
    output: nn.Linear,
    targets: Tensor,
    *,
    label_smoothing: float = 0.0,
    weights: Tensor | None = None,
) -> LossSum:
    """Return the cross-entropy of targets (M,) under the output layer's logits for hidden (M, D).

    Equal to `F.cross_entropy(output(hidden), targets, reduction="sum")`, where each target counts
    `weights` (M,) times. The logits (M, V) are never in memory as a whole: rows are projected,
    scored and turned into gradients a chunk at a time, while they are in the cache (Wijmans et al.
    2024, "Cut your losses in large-vocabulary language models").
    """
    total, log_likelihood = _LinearCrossEntropy.apply(
        hidden, output.weight, output.bias, targets, label_smoothing, weights
    )
    smoothing = {"label_smoothing": total.detach() + log_likelihood} if label_smoothing else {}
    return LossSum(total, targets.new_tensor(targets.numel()), smoothing)


class _LinearCrossEntropy(torch.autograd.Function):
    """Linear layer and cross-entropy. `forward` computes the gradients, `backward` scales them."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,  # (M, D)
        weight: Tensor,  # (V, D)
        bias: Tensor,  # (V,)
        targets: Tensor,  # (M,)
        smoothing: float,
        importance: Tensor | None,  # (M,)
    ) -> tuple[Tensor, Tensor]:
        device, dtype = hidden.device.type, weight.dtype
        if torch.is_autocast_enabled(device):
            dtype = torch.get_autocast_dtype(device)
        low_weight, low_bias = weight.to(dtype), bias.to(dtype)
        vocab_size = len(weight)
        needs_gradient = any(ctx.needs_input_grad)
        hidden_grads, weight_grad, bias_grad = [], torch.zeros_like(weight), torch.zeros_like(bias)
        total = hidden.new_zeros((), dtype=torch.float32)
        log_likelihood = total.clone()  # of the targets, for the log
        factors = hidden.new_ones(()) if importance is None else importance.unsqueeze(1)
        factors = factors.expand(len(hidden), 1)  # (M, 1)
        chunks = (
            torch.split(rows, max(1, _LOGITS_AT_ONCE // vocab_size))
            for rows in (hidden.to(dtype), targets.unsqueeze(1), factors)
        )
        for h, target, factor in zip(*chunks, strict=True):  # (R, D), (R, 1), (R, 1)
            logits = torch.addmm(low_bias, h, low_weight.t())
            log_probs = logits.float().log_softmax(dim=1)  # (R, V)
            # The target distribution q is smoothing / V everywhere, plus 1 - smoothing at the
            # target (Szegedy et al. 2016, section 7). The loss is -sum_v q_v log p_v.
            of_targets = (factor * log_probs.gather(1, target)).sum()
            log_likelihood += of_targets
            total -= (1 - smoothing) * of_targets
            if smoothing:
                total -= smoothing / vocab_size * (factor * log_probs.sum(1, keepdim=True)).sum()
            if not needs_gradient:
                continue
            logits_grad = _logits_gradient(log_probs, target, smoothing)  # (R, V)
            if importance is not None:
                logits_grad *= factor
            bias_grad += logits_grad.sum(dim=0)
            logits_grad = logits_grad.to(dtype)
            hidden_grads.append(logits_grad @ low_weight)  # (R, D)
            weight_grad += logits_grad.t() @ h  # (V, D)
        if needs_gradient:
            ctx.save_for_backward(torch.cat(hidden_grads).to(hidden.dtype), weight_grad, bias_grad)
        ctx.mark_non_differentiable(log_likelihood)
        return total, log_likelihood

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        scale = gradients[0]  # the gradient with respect to `total`, a scalar
        hidden_grad, weight_grad, bias_grad = ctx.saved_tensors
        scaled_hidden = scale.to(hidden_grad.dtype) * hidden_grad
        return scaled_hidden, scale * weight_grad, scale * bias_grad, None, None, None


def _logits_gradient(log_probs: Tensor, target: Tensor, smoothing: float) -> Tensor:
    """Return the gradient p - q with respect to the logits (R, V), computed in place."""
    gradient = log_probs.exp_()  # p
    if smoothing:
        gradient -= smoothing / gradient.shape[1]
    at_target = torch.full_like(target, smoothing - 1, dtype=gradient.dtype)  # -(1 - smoothing)
    return gradient.scatter_add_(1, target, at_target)


def doubly_stochastic_penalty(weights: Tensor, mask: Tensor, source_mask: Tensor) -> Tensor:
    """Return the penalty on attention that neglects some positions of the source.

    Sum over captions and positions p of (1 - sum_t weights_tp) ** 2: over a caption, each position
    should receive a total attention of 1. Xu et al. 2015, "Show, attend and tell", equation 14.

    Args:
        weights: (M, P) attention weights of the real tokens.
        mask: (N, T-1) True at the M real tokens, in whose order the rows of `weights` are.
        source_mask: (N, P) False at padding of the source, which has no penalty.
    """
    caption = mask.nonzero()[:, 0]  # (M,) row of the caption that each token belongs to
    zeros = weights.new_zeros((len(mask), weights.shape[1]))
    totals = zeros.index_add(0, caption, weights)  # (N, P)
    return (1 - totals).square().masked_fill(~source_mask, 0.0).sum()
