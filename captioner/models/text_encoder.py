"""The text encoder: an RNN over the token embeddings of a source text.

Cho et al. 2014, "Learning phrase representations using RNN encoder-decoder" (one direction), and
Bahdanau et al. 2015, "Neural machine translation by jointly learning to align and translate" (both
directions).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from captioner.config.schema import CellName
from captioner.errors import UsageError
from captioner.models.decoder import LAYERS
from captioner.text.tokenizer import PAD
from captioner.types import Memory


class TextEncoder(nn.Module):
    """Encode texts: the states of all positions as the grid, the last state as the summary.

    Padding changes no state: the backward direction starts at the last real token of each text.

    Args:
        vocab_size: of the source language.
        cell: the type of the RNN's cells.
        layers: L.
        bidirectional: read in both directions, whose states are concatenated.
        reverse: read from the last token to the first (Sutskever et al. 2014, "Sequence to sequence
            learning with neural networks", section 3.3). Position p of the grid is still token p.
        embed_size: E.
        hidden_size: of each direction.
        dropout: on embeddings and between layers.
    """

    def __init__(
        self,
        *,
        vocab_size: int,
        cell: CellName = "gru",
        layers: int = 1,
        bidirectional: bool = True,
        reverse: bool = False,
        embed_size: int = 256,
        hidden_size: int = 256,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.reverse, self.layers = reverse, layers
        self.memory_size = hidden_size * (2 if bidirectional else 1)  # C
        self.embedding = nn.Embedding(vocab_size, embed_size)
        self.dropout = nn.Dropout(dropout)
        self.rnn = LAYERS[cell](
            embed_size,
            hidden_size,
            num_layers=layers,
            bidirectional=bidirectional,
            dropout=dropout if layers > 1 else 0.0,  # PyTorch warns if there is nothing between
            batch_first=True,
        )

    def forward(self, source: Tensor) -> Memory:
        """Encode token ids (B, P), with <pad> after the tokens of each text (at least one)."""
        mask = source != PAD  # (B, P)
        lengths = mask.sum(dim=1)  # (B,)
        order = _reading_order(lengths, source.shape[1]) if self.reverse else None  # (B, P)
        tokens = source if order is None else source.gather(1, order)
        embedded = self.dropout(self.embedding(tokens))  # (B, P, E)
        # a packed sequence has no padding: each direction starts and ends at real tokens
        packed = pack_padded_sequence(
            embedded, lengths.cpu(), batch_first=True, enforce_sorted=False
        )
        outputs, last = self.rnn(packed)
        grid, _ = pad_packed_sequence(outputs, batch_first=True, total_length=source.shape[1])
        if order is not None:
            grid = grid.gather(1, order.unsqueeze(2).expand_as(grid))  # position p is token p again
        final_state = tuple(
            self._join_directions(part) for part in (last if isinstance(last, tuple) else (last,))
        )  # one or two parts (B, L, C)
        summary = final_state[0][:, -1]  # (B, C), the hidden state of the top layer
        return Memory(summary, grid, mask, final_state)

    def _join_directions(self, part: Tensor) -> Tensor:
        """Rearrange a part of PyTorch's last state, (L * directions, B, hidden), to (B, L, C)."""
        return part.transpose(0, 1).reshape(-1, self.layers, self.memory_size)

    def finetune(self, first: str | None) -> None:
        """Do nothing: all weights are always trained. An image encoder trains from stage `first`.

        Raises:
            UsageError: `first` is not None.
        """
        if first is not None:
            raise UsageError(
                f"finetune_from is {first}, but a text encoder has no stages: leave it out"
            )

    @torch.no_grad()
    def copy_weights(self, other: TextEncoder) -> None:
        """Copy the weights of an equal encoder whose vocabulary is the start of this one's."""
        known = other.embedding.num_embeddings
        self.embedding.weight[:known] = other.embedding.weight
        self.rnn.load_state_dict(other.rnn.state_dict())


def _reading_order(lengths: Tensor, size: int) -> Tensor:
    """Return (B, P) the positions of each text from its last token to its first, then padding.

    The permutation is its own inverse.
    """
    position = torch.arange(size, device=lengths.device)  # (P,)
    backwards = lengths.unsqueeze(1) - 1 - position  # (B, P), negative at padding
    return torch.where(backwards >= 0, backwards, position)
