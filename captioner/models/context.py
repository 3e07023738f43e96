"""How the source reaches the decoder: initial state, first input, every step, output, attention.

The source is an image or a text.

The comparison of these is that of Tanti et al. 2018, "Where to put the image in an image caption
generator" ("init-inject", "pre-inject", "par-inject" and "merge"), plus attention.
"""

from __future__ import annotations

from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from captioner.types import Memory, SharedRows, State, materialize


class ContextOutput(NamedTuple):
    """What a context adds to one decoding step."""

    context: Tensor  # (N, S) the context vector
    weights: Tensor | None = None  # (N, P) attention weights of the grid's positions; they sum to 1


class Context(nn.Module):
    """Base class. By itself it adds no context vector: S = 0.

    The decoder reads the class attributes to choose its layer sizes and its way of training.
    """

    sets_initial_state = True  # project the summary onto the initial state, which is else zero
    depends_on_hidden = False  # `attend` reads the hidden state: captions are read step by step
    input_size = 0  # S if the context vector is concatenated to the embedding of each input token
    output_size = 0  # S if it is concatenated to the hidden state before the output layer
    state_parts = 0  # number of parts that `init` adds to the decoder state

    def first_input(self, memory: Memory) -> Tensor | None:
        """Return an RNN input (B, E) to process before <bos>, or None."""
        return None

    def init(self, memory: Memory) -> State:
        """Return the parts of the decoder state that `attend` reads."""
        return ()

    def attend(self, hidden: Tensor, context_state: State) -> ContextOutput:
        """Compute the context vector of one step from the top layer's previous state (N, H)."""
        return ContextOutput(hidden[:, :0])  # (N, 0)


class InitialStateOnly(Context):
    """Only the initial state depends on the source ("init-inject").

    The projection onto the initial state is that of Xu et al. 2015, section 3.1.2.
    """


class FirstToken(Context):
    """The projected source is the first RNN input, before <bos> ("pre-inject").

    Vinyals et al. 2015, "Show and tell", equation 10.
    """

    sets_initial_state = False

    def __init__(self, *, memory_size: int, embed_size: int) -> None:
        super().__init__()
        self.project = nn.Linear(memory_size, embed_size)

    def first_input(self, memory: Memory) -> Tensor:
        """Project the summary (B, C) to the embedding size (B, E)."""
        first: Tensor = self.project(memory.summary)  # (B, E)
        return first


class EveryStep(Context):
    """The projected source joins every RNN input ("par-inject") and every hidden state.

    Cho et al. 2014, "Learning phrase representations using RNN encoder-decoder", section 2.2.
    """

    state_parts = 1

    def __init__(self, *, memory_size: int, size: int) -> None:
        super().__init__()
        self.project = nn.Linear(memory_size, size)
        self.input_size = self.output_size = size  # S

    def init(self, memory: Memory) -> State:
        """Project the summary (B, C) to the context vector (B, S), once for all steps."""
        return (self.project(memory.summary),)

    def attend(self, hidden: Tensor, context_state: State) -> ContextOutput:
        """Return the context vector of the state, which is the same at every step."""
        return ContextOutput(cast(Tensor, context_state[0]))


class Merge(EveryStep):
    """The projected source joins the hidden states only: the RNN reads its own text ("merge").

    Tanti et al. 2018, "Where to put the image in an image caption generator".
    """

    sets_initial_state = False

    def __init__(self, *, memory_size: int, size: int) -> None:
        super().__init__(memory_size=memory_size, size=size)
        self.input_size = 0


class AdditiveAttention(Context):
    """At every step, a gated mean of the grid, weighted by its match with the hidden state.

    Soft attention of Xu et al. 2015, "Show, attend and tell", sections 3.1.2 and 4.2, with the
    additive score of Bahdanau et al. 2015, "Neural machine translation by jointly learning to
    align and translate", appendix A.1.2. Positions that the memory masks get weight 0.
    """

    depends_on_hidden = True
    state_parts = 3

    def __init__(self, *, memory_size: int, hidden_size: int, size: int) -> None:
        super().__init__()
        self.key = nn.Linear(memory_size, size)
        self.query = nn.Linear(hidden_size, size, bias=False)  # `key` has a bias: their sum has one
        self.score = nn.Linear(size, 1, bias=False)  # the softmax would cancel a bias
        self.gate = nn.Linear(hidden_size, 1)
        self.input_size = self.output_size = memory_size  # S = C

    def init(self, memory: Memory) -> State:
        """Compute the keys (B, P, A) once; they, the grid and the mask serve all captions."""
        parts = self.key(memory.grid), memory.grid, memory.mask
        index = torch.arange(memory.grid.shape[0], device=memory.grid.device)  # (B,)
        return tuple(SharedRows(part, index) for part in parts)

    def attend(self, hidden: Tensor, context_state: State) -> ContextOutput:
        """Attend to the grid with the hidden state (N, H) as the query; equations of Xu et al."""
        keys, grid, mask = map(materialize, context_state)  # (N, P, A), (N, P, C), (N, P)
        query = self.query(hidden).unsqueeze(1)  # (N, 1, A)
        scores = self.score(torch.tanh(query + keys)).squeeze(-1)  # (N, P), equation 4
        scores = scores.float().masked_fill(~mask, -torch.inf)
        weights = scores.softmax(dim=1)  # (N, P), equation 5
        mean = torch.bmm(weights.to(grid.dtype).unsqueeze(1), grid).squeeze(1)  # (N, C), eq. 13
        gate = self.gate(hidden).sigmoid()  # (N, 1), beta of section 4.2.1
        return ContextOutput(gate * mean, weights)
