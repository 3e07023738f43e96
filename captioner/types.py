"""The values that travel through the pipeline, and the protocols of the parts that move them. Read this first.

    Batch → encode → Memory → start → State → step → logits

Shape letters, used in comments everywhere:

    B  images in a batch          N  captions in a batch (about 5 for each image)
    T  words in the longest caption, with <bos> and <eos>
    C  channels of the encoder    P  places of its grid (height x width of the CNN's last map)
    L  layers of the decoder      H  its hidden size     E  embedding size     V  vocabulary size
    K  beams                      D  what words are said from: H, and what the context lays beside it
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol

import torch
from torch import Tensor


class Shared:
    """Rows of a tensor that many captions have in common, such as an image's grid: picking rows copies no grid.

    A part of a state like any tensor, as far as a search is concerned.
    """

    def __init__(self, values: Tensor, row: Tensor) -> None:
        """Take the values (R, ...) and which of them each caption has (N,)."""
        self.values, self.row = values, row

    def __getitem__(self, index: Tensor | slice) -> Shared:
        """Pick captions."""
        return Shared(self.values, self.row[index])

    def rows(self) -> Tensor:
        """Copy out what each caption has, (N, ...)."""
        return self.values[self.row]

    @property
    def shape(self) -> torch.Size:
        """Of `rows()`."""
        return torch.Size((len(self.row), *self.values.shape[1:]))

    @property
    def device(self) -> torch.device:
        """Where the values are."""
        return self.values.device


def rows_of(part: Tensor | Shared) -> Tensor:
    """Copy out what each caption has, if captions share it."""
    return part.rows() if isinstance(part, Shared) else part


State = tuple[Tensor | Shared, ...]
"""What a decoder remembers between two words. Every part is batch-first: a search reorders any state alike."""

Step = Callable[[Tensor, State], tuple[Tensor, State]]
"""(words (N,), state) → (log-probabilities (N, V) of the next word, new state)."""


class Batch(NamedTuple):
    """Images with their captions, as the collate function hands them over. An image appears once."""

    source: Tensor  # (B, 3, height, width) uint8 images, or (B, P, C) features from the cache
    tokens: Tensor  # (N, T) int64  <bos> a dog runs <eos> <pad> <pad>
    mask: Tensor  #   (N, T) bool   True on everything but <pad>
    source_index: Tensor  #  (N,) int64    which source each caption belongs to
    example_index: Tensor  #  (B,) int64    which example of its split each source is

    @property
    def inputs(self) -> Tensor:
        """(N, T-1) what the decoder reads: all tokens but the last."""
        return self.tokens[:, :-1]

    @property
    def targets(self) -> Tensor:
        """(N, T-1) what the decoder must say: all tokens but the first."""
        return self.tokens[:, 1:]

    @property
    def target_mask(self) -> Tensor:
        """(N, T-1) True where there is a word to say."""
        return self.mask[:, 1:]

    def to(self, device: torch.device) -> Batch:
        """Copy every tensor to `device`, without waiting where the memory is pinned."""
        return Batch(*(tensor.to(device, non_blocking=True) for tensor in self))

    def pin_memory(self) -> Batch:
        """Called by the data loader, so that `to` need not wait."""
        return Batch(*(tensor.pin_memory() for tensor in self))


class Memory(NamedTuple):
    """What an encoder saw: one vector for the whole, and one for each place."""

    summary: Tensor  # (B, C)
    grid: Tensor  # (B, P, C)
    mask: Tensor  # (B, P) True on places that are real

    def select(self, index: Tensor) -> Memory:
        """Pick rows: one for each caption (training) or each beam (decoding)."""
        return Memory(*(tensor[index] for tensor in self))


class DecoderOutput(NamedTuple):
    """What a decoder makes of M words that it has read."""

    hidden: Tensor  # (M, D) from which the next word is said
    weights: Tensor | None = None  # (M, P) where attention looked for it, if there is attention


class Encoder(Protocol):
    """Turns sources into a memory."""

    memory_size: int  # C

    def __call__(self, source: Tensor) -> Memory:
        """Encode images or cached features."""
        ...


class Decoder(Protocol):
    """Turns a memory into words."""

    def init_state(self, memory: Memory) -> State:
        """Give the state before the first word."""
        ...

    def step(self, words: Tensor, state: State) -> tuple[Tensor, State]:
        """Read one word (N,) and give the vector that says the next, (N, D), with the new state."""
        ...

    def __call__(self, inputs: Tensor, mask: Tensor, state: State) -> DecoderOutput:
        """Read whole captions (N, T-1); of the M = mask.sum() real words."""
        ...


class StepModel(Protocol):
    """A model, or several that speak as one: all that captioning needs of it."""

    def init_state(self, source: Tensor) -> State:
        """Look at images (B, 3, height, width) and give the state before the first word."""
        ...

    def step(self, words: Tensor, state: State) -> tuple[Tensor, State]:
        """Read one word (N,) and give the log-probabilities of the next, (N, V), with the new state."""
        ...

    def log_probs(self, batch: Batch, state: State) -> Tensor:
        """Read whole captions and give the log-probability of each of their M words, (M,)."""
        ...


class Hypothesis(NamedTuple):
    """One caption that a search has found."""

    token_ids: list[int]  # without <bos> and <eos>
    log_probs: list[float]  # natural logarithm, of each word and of the <eos>

    @property
    def log_prob(self) -> float:
        """Of the whole caption."""
        return sum(self.log_probs)


def select_state(state: State, index: Tensor) -> State:
    """Pick rows of every part of the state."""
    return tuple(part[index] for part in state)
