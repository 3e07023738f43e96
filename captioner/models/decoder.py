"""From a memory to words: a recurrent network with the vocabulary at both ends. Knows nothing of images."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from captioner.errors import UsageError
from captioner.types import Memory, State

_CELLS: dict[str, type[nn.LSTM] | type[nn.GRU] | type[nn.RNN]] = {"lstm": nn.LSTM, "gru": nn.GRU, "rnn": nn.RNN}

_GROUP = {"cpu": 80}  # captions read together; elsewhere all of them, since a GPU minds the number of steps alone


class RecurrentDecoder(nn.Module):
    """Write a caption word by word, starting from what the encoder saw.

    The memory's summary (B, C) is projected onto the initial state by one affine map, for every part (an LSTM has two:
    hidden and cell) and layer. A whole caption is read in one call for training, and word by word for decoding; both
    give the same hidden vectors.

    Vinyals et al. 2015, "Show and tell"; the projection onto the initial state as in Xu et al. 2015, section 3.1.2.

    Raises:
        UsageError: `tie_embedding` with an `embed_size` that is not the `hidden_size`.
    """

    def __init__(
        self,
        *,
        vocab_size: int,
        memory_size: int,
        embed_size: int = 512,
        hidden_size: int = 512,
        cell: Literal["lstm", "gru", "rnn"] = "lstm",
        layers: int = 1,
        dropout: float = 0.0,
        tie_embedding: bool = False,
    ) -> None:
        super().__init__()
        self.layers, self.hidden_size = layers, hidden_size
        self.parts = 2 if cell == "lstm" else 1
        self.embedding = nn.Embedding(vocab_size, embed_size)
        self.initial = nn.Linear(memory_size, self.parts * layers * hidden_size)
        between = dropout if layers > 1 else 0.0  # torch warns of a dropout that has no place
        self.rnn = _CELLS[cell](embed_size, hidden_size, layers, batch_first=True, dropout=between)
        self.dropout = nn.Dropout(dropout)
        self.output = nn.Linear(hidden_size, vocab_size)
        if tie_embedding:
            if embed_size != hidden_size:
                raise UsageError(
                    f"decoder.tie_embedding shares one matrix: set decoder.embed_size ({embed_size}) "
                    f"to decoder.hidden_size ({hidden_size}), or tie_embedding to false"
                )
            self.output.weight = self.embedding.weight

    def start(self, memory: Memory) -> State:
        """Project the summary onto the initial state: parts times (B, L, H)."""
        initial: Tensor = self.initial(memory.summary)  # (B, parts*L*H)
        parts = initial.view(-1, self.parts, self.layers, self.hidden_size)  # (B, parts, L, H)
        state: State = parts.unbind(dim=1)
        return state

    def forward(self, inputs: Tensor, mask: Tensor, state: State) -> Tensor:
        """Read whole captions (N, T) and give the hidden vector (M, H) after each of their M real words.

        The vectors stand in the order of `inputs[mask]`. Captions are read in groups, each as long as its longest, so
        padding costs little where they come sorted by length. (A packed sequence has no padding, but on a CPU its
        steps are not fused: groups took four fifths of its time.)
        """
        size = _GROUP.get(inputs.device.type, len(inputs))
        groups = []
        for start in range(0, len(inputs), size):
            rows = slice(start, start + size)
            real = mask[rows, : int(mask[rows].sum(dim=1).max())]
            embedded = self.dropout(self.embedding(inputs[rows, : real.shape[1]]))  # (n, t, E)
            hidden, _ = self.rnn(embedded, self._to_torch(tuple(part[rows] for part in state)))
            groups.append(hidden[real])  # (m, H)
        return self.dropout(torch.cat(groups))  # type: ignore[no-any-return]

    def step(self, words: Tensor, state: State) -> tuple[Tensor, State]:
        """Read one word for each caption (N,) and give the hidden vector (N, H) with the new state."""
        embedded = self.dropout(self.embedding(words)).unsqueeze(1)  # (N, 1, E)
        hidden, new = self.rnn(embedded, self._to_torch(state))
        return self.dropout(hidden.squeeze(1)), self._from_torch(new)

    def _to_torch(self, state: State) -> Tensor | State:
        """Ours is batch-first; torch wants (L, N, H), in a pair for the LSTM alone."""
        parts = tuple(part.transpose(0, 1).contiguous() for part in state)
        return parts if self.parts == 2 else parts[0]

    def _from_torch(self, state: Tensor | State) -> State:
        parts = (state,) if isinstance(state, Tensor) else state
        return tuple(part.transpose(0, 1) for part in parts)

    @torch.no_grad()
    def take_over(self, other: RecurrentDecoder) -> None:
        """Take the weights of a decoder of the same shape whose vocabulary is the beginning of this one's."""
        known = other.embedding.num_embeddings
        mine = self.state_dict()
        for name, weight in other.state_dict().items():
            mine[name][: known if name in _BY_WORD else None] = weight


_BY_WORD = {"embedding.weight", "output.weight", "output.bias"}  # whose rows are words
