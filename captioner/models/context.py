"""How the image reaches the decoder: five ways, from the sequence-to-sequence and the captioning literature.

A context hands over the memory's summary once, as the initial state or the first input, or carries something in the
state and lays a vector from it beside each word that is read, beside each hidden state that says a word, or both.
"""

from __future__ import annotations

from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from captioner.types import Memory, Shared, State, rows_of


class Sight(NamedTuple):
    """What the decoder is shown of the image at one step."""

    vector: Tensor  # (N, S)
    weights: Tensor | None = None  # (N, P) how much attention looked at each place; they sum to 1


class NoContext(nn.Module):
    """The initial state alone knows the image (Xu et al. 2015, section 3.1.2; Cho et al. 2014). The base of the others.

    Class attributes say where a context's vector goes, so that the decoder can size its layers.
    """

    starts_state = True  # the summary is projected onto the initial state; else that is zero
    follows_state = False  # what is shown depends on the state, so captions must be read word by word
    input_size = 0  # S beside the embedding of a word
    output_size = 0  # S beside the hidden state that says a word

    def first_input(self, memory: Memory) -> Tensor | None:
        """Give what is read before <bos>, (B, E), if anything."""
        return None

    def carry(self, memory: Memory) -> State:
        """Give what the state carries along for `look`."""
        return ()

    def look(self, hidden: Tensor, carried: State) -> Sight:
        """Show the top layer, (N, H) before the step, something of the image."""
        return Sight(hidden[:, :0])


class FirstToken(NoContext):
    """The projected image is the first thing that is read (Vinyals et al. 2015, "Show and tell")."""

    starts_state = False

    def __init__(self, *, memory_size: int, embed_size: int) -> None:
        super().__init__()
        self.project = nn.Linear(memory_size, embed_size)

    def first_input(self, memory: Memory) -> Tensor:
        """Project the summary to look like a word, (B, E)."""
        first: Tensor = self.project(memory.summary)
        return first


class EveryStep(NoContext):
    """The projected image beside every word that is read, and beside every hidden state that says one: it "peeks".

    Cho et al. 2014, "Learning phrase representations using RNN encoder-decoder", section 2.2.
    """

    def __init__(self, *, memory_size: int, size: int) -> None:
        super().__init__()
        self.project = nn.Linear(memory_size, size)
        self.input_size = self.output_size = size

    def carry(self, memory: Memory) -> State:
        """One vector for each image, (B, S)."""
        return (self.project(memory.summary),)

    def look(self, hidden: Tensor, carried: State) -> Sight:
        """The same at every step."""
        return Sight(cast(Tensor, carried[0]))


class Merge(EveryStep):
    """Image and language meet only where a word is said; the recurrent network reads words alone.

    Tanti et al. 2018, "Where to put the image in an image caption generator".
    """

    starts_state = False

    def __init__(self, *, memory_size: int, size: int) -> None:
        super().__init__(memory_size=memory_size, size=size)
        self.input_size = 0


class AdditiveAttention(NoContext):
    """At each step another mean of the grid's places, weighted by what the state asks for, and gated.

    Xu et al. 2015, "Show, attend and tell", sections 3.1.2 and 4.2 (soft attention, gate beta), with the additive score
    of Bahdanau et al. 2015. Places that the memory's mask leaves out have weight 0.
    """

    follows_state = True

    def __init__(self, *, memory_size: int, hidden_size: int, size: int) -> None:
        super().__init__()
        self.key = nn.Linear(memory_size, size)
        self.query = nn.Linear(hidden_size, size, bias=False)  # the key has one
        self.score = nn.Linear(size, 1, bias=False)  # softmax knows no common shift
        self.gate = nn.Linear(hidden_size, 1)
        self.input_size = self.output_size = memory_size

    def carry(self, memory: Memory) -> State:
        """The grid, its keys and its mask: once for each image, shared by all its captions."""
        row = torch.arange(len(memory.grid), device=memory.grid.device)
        return tuple(Shared(part, row) for part in (self.key(memory.grid), memory.grid, memory.mask))

    def look(self, hidden: Tensor, carried: State) -> Sight:
        """Attend with the state as the query."""
        keys, grid, mask = map(rows_of, carried)
        scores = self.score(torch.tanh(self.query(hidden).unsqueeze(1) + keys)).squeeze(-1)  # (N, P)
        weights = scores.float().masked_fill(~mask, float("-inf")).softmax(dim=1)  # (N, P)
        mean = torch.bmm(weights.to(grid.dtype).unsqueeze(1), grid).squeeze(1)  # (N, C)
        return Sight(self.gate(hidden).sigmoid() * mean, weights)
