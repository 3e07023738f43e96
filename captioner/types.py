"""The data that flows through the model, and the interface that decoding needs. Read this first.

    Batch.source (B, 3, h, w) or (B, P) --encoder--> Memory --decoder.init_state--> State
    token_ids (N,), State --decoder.step--> features (N, D), State --decoder.output--> logits (N, V)

Training runs the second line for all steps of a batch at once. Decoding repeats it step by step.

Shape letters in comments, unless a file declares its own:

    B  images or texts of a batch N  captions or beams: rows that the decoder processes
    T  tokens of the longest caption, <bos> and <eos> included
    M  real target tokens of a batch: M = batch.target_mask.sum()
    C  encoder channels           P  positions of the encoder's grid: the cells of the last feature
                                     map of an image, or the tokens of a source text
    L  decoder layers             H  hidden size        E  embedding size     V  vocabulary size
    S  size of the context vector that is concatenated to an RNN input or to a hidden state
    A  size of the space in which attention compares queries and keys
    D  features of the output layer: H + S, or E where tied embeddings need a projection
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from captioner.captions import Hypothesis as Hypothesis


class SharedRows:
    """A tensor (N, ...) whose rows repeat those of a smaller tensor, such as the grids of B images.

    Indexing selects rows as it does in a tensor, but moves row numbers only and copies no values.
    """

    def __init__(self, values: Tensor, index: Tensor) -> None:
        """Store the distinct rows (R, ...), and the number in 0..R-1 of each of the N rows (N,)."""
        self.values, self.index = values, index

    def __getitem__(self, rows: Tensor | slice) -> SharedRows:
        """Select rows."""
        return SharedRows(self.values, self.index[rows])

    def materialize(self) -> Tensor:
        """Return the tensor (N, ...) with its repeated rows copied."""
        return self.values[self.index]

    @property
    def shape(self) -> torch.Size:
        """The shape of the materialized tensor."""
        return torch.Size((len(self.index), *self.values.shape[1:]))

    @property
    def device(self) -> torch.device:
        """The device of the values."""
        return self.values.device


State = tuple[Tensor | SharedRows, ...]
"""The decoder state between two steps. Every part is batch-first, (N, ...), so that a search
selects and reorders the rows of any decoder in the same way: see `select_state`."""

Step = Callable[[Tensor, State], tuple[Tensor, State]]
"""(token_ids (N,), state) -> (log-probabilities (N, V) of the next token, new state)."""


def materialize(part: Tensor | SharedRows) -> Tensor:
    """Return a part of a state as a tensor (N, ...)."""
    return part.materialize() if isinstance(part, SharedRows) else part


def select_state(state: State, index: Tensor) -> State:
    """Select rows of every part of a state."""
    return tuple(part[index] for part in state)


class Batch(NamedTuple):
    """Sources with their captions. A source appears once, however many captions it has.

    Sources are images or texts. The translation of a text is called its caption too.
    """

    # (B, 3, height, width) uint8 images, or (B, P, C) their cached encoder features, or
    # (B, P) int64 token ids of texts, without <bos> and <eos>, and with <pad> at the end
    source: Tensor
    tokens: Tensor  # (N, T) int64  <bos> a dog runs <eos> <pad> <pad>
    mask: Tensor  #   (N, T) bool   True except at <pad>
    source_index: Tensor  #  (N,) int64    row of `source` that each caption describes
    example_index: Tensor  #  (B,) int64    index of each source in its data set

    @property
    def inputs(self) -> Tensor:
        """The decoder inputs (N, T-1): all tokens but the last."""
        return self.tokens[:, :-1]

    @property
    def targets(self) -> Tensor:
        """The tokens to predict (N, T-1): all tokens but the first."""
        return self.tokens[:, 1:]

    @property
    def target_mask(self) -> Tensor:
        """The mask of the targets (N, T-1): False at <pad>."""
        return self.mask[:, 1:]

    def to(self, device: torch.device) -> Batch:
        """Copy every tensor to `device`, asynchronously from pinned memory."""
        return Batch(*(tensor.to(device, non_blocking=True) for tensor in self))

    def pin_memory(self) -> Batch:
        """Copy every tensor to pinned memory. PyTorch's data loader calls this."""
        return Batch(*(tensor.pin_memory() for tensor in self))


class Memory(NamedTuple):
    """The output of an encoder: one vector for the whole source, and one for each position."""

    summary: Tensor  # (B, C)
    grid: Tensor  # (B, P, C)
    mask: Tensor  # (B, P) bool   False at padding, which gets no attention
    # the last state of each layer of a text encoder: one or two parts (B, L, C), as in `State`
    final_state: tuple[Tensor, ...] | None = None


class DecoderOutput(NamedTuple):
    """The output of a decoder for M tokens, before the output layer."""

    hidden: Tensor  # (M, D) features from which the output layer computes the next token's logits
    weights: Tensor | None = None  # (M, P) attention weights, if the decoder has attention


class StepModel(Protocol):
    """What decoding needs from a model or an ensemble."""

    @property
    def state_parts(self) -> int:
        """The number of parts of its state."""
        ...

    def init_state(self, source: Tensor) -> State:
        """Return the initial decoder state of images (B, 3, height, width) or texts (B, P)."""
        ...

    def step(self, token_ids: Tensor, state: State) -> tuple[Tensor, State]:
        """Return log-probabilities (N, V) of the token after `token_ids` (N,), and the state."""
        ...

    def log_probs(self, batch: Batch, state: State) -> Tensor:
        """Return the log-probability (M,) of every target token; `state` is that of B sources."""
        ...
