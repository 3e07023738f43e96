"""How the image reaches the decoder: five ways, from the sequence-to-sequence and the captioning literature.

A context hands over the memory's summary once, as the initial state or the first input, or carries something in the
state and lays a vector from it beside each word that is read, beside each hidden state that says a word, or both.
"""

from __future__ import annotations

from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from captioner.types import Memory, Shared, State, rows_of


class ContextOutput(NamedTuple):
    """What the decoder is shown of the image at one step."""

    context: Tensor  # (N, S)
    weights: Tensor | None = None  # (N, P) how much attention looked at each place; they sum to 1


class Context(nn.Module):
    """The base of every context. By itself it shows the decoder nothing.

    Class attributes tell the decoder how large its layers must be.
    """

    sets_initial_state = True  # the summary is projected onto the initial state; else it is zero
    depends_on_hidden = False  # `attend` needs the hidden state, so captions are read step by step
    input_size = 0  # S, concatenated to the embedding of each input token
    output_size = 0  # S, concatenated to the hidden state before the output layer

    def first_input(self, memory: Memory) -> Tensor | None:
        """Return the decoder's input before <bos>, (B, E), if it has one."""
        return None

    def init(self, memory: Memory) -> State:
        """Return the parts of the decoder state that `attend` reads."""
        return ()

    def attend(self, hidden: Tensor, context_state: State) -> ContextOutput:
        """Return the context vector of one step, given the top layer's hidden state before it, (N, H)."""
        return ContextOutput(hidden[:, :0])


class InitialStateOnly(Context):
    """The initial state alone depends on the image (Xu et al. 2015, section 3.1.2; Cho et al. 2014)."""


class FirstToken(Context):
    """The projected image is the first thing that is read (Vinyals et al. 2015, "Show and tell")."""

    sets_initial_state = False

    def __init__(self, *, memory_size: int, embed_size: int) -> None:
        super().__init__()
        self.project = nn.Linear(memory_size, embed_size)

    def first_input(self, memory: Memory) -> Tensor:
        """Project the summary to look like a word, (B, E)."""
        first: Tensor = self.project(memory.summary)
        return first


class EveryStep(Context):
    """The projected image beside every word that is read, and beside every hidden state that says one: it "peeks".

    Cho et al. 2014, "Learning phrase representations using RNN encoder-decoder", section 2.2.
    """

    def __init__(self, *, memory_size: int, size: int) -> None:
        super().__init__()
        self.project = nn.Linear(memory_size, size)
        self.input_size = self.output_size = size

    def init(self, memory: Memory) -> State:
        """One vector for each image, (B, S)."""
        return (self.project(memory.summary),)

    def attend(self, hidden: Tensor, context_state: State) -> ContextOutput:
        """The same at every step."""
        return ContextOutput(cast(Tensor, context_state[0]))


class Merge(EveryStep):
    """Image and language meet only where a word is said; the recurrent network reads words alone.

    Tanti et al. 2018, "Where to put the image in an image caption generator".
    """

    sets_initial_state = False

    def __init__(self, *, memory_size: int, size: int) -> None:
        super().__init__(memory_size=memory_size, size=size)
        self.input_size = 0


class AdditiveAttention(Context):
    """At each step another mean of the grid's places, weighted by what the state asks for, and gated.

    Xu et al. 2015, "Show, attend and tell", sections 3.1.2 and 4.2 (soft attention, gate beta), with the additive score
    of Bahdanau et al. 2015. Places that the memory's mask leaves out have weight 0.
    """

    depends_on_hidden = True

    def __init__(self, *, memory_size: int, hidden_size: int, size: int) -> None:
        super().__init__()
        self.key = nn.Linear(memory_size, size)
        self.query = nn.Linear(hidden_size, size, bias=False)  # the key has one
        self.score = nn.Linear(size, 1, bias=False)  # softmax knows no common shift
        self.gate = nn.Linear(hidden_size, 1)
        self.input_size = self.output_size = memory_size

    def init(self, memory: Memory) -> State:
        """The grid, its keys and its mask: once for each image, shared by all its captions."""
        row = torch.arange(len(memory.grid), device=memory.grid.device)
        return tuple(
            Shared(part, row) for part in (self.key(memory.grid), memory.grid, memory.mask)
        )

    def attend(self, hidden: Tensor, context_state: State) -> ContextOutput:
        """Attend with the state as the query."""
        keys, grid, mask = map(rows_of, context_state)
        scores = self.score(torch.tanh(self.query(hidden).unsqueeze(1) + keys)).squeeze(
            -1
        )  # (N, P)
        weights = scores.float().masked_fill(~mask, float("-inf")).softmax(dim=1)  # (N, P)
        mean = torch.bmm(weights.to(grid.dtype).unsqueeze(1), grid).squeeze(1)  # (N, C)
        return ContextOutput(self.gate(hidden).sigmoid() * mean, weights)
