"""Recurrent layers one above the other. Knows neither words nor images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import cast

import torch
from torch import Tensor, nn

from captioner.config.schema import CellName

_CELLS: dict[CellName, type[nn.LSTM] | type[nn.GRU] | type[nn.RNN]] = {
    "lstm": nn.LSTM,
    "gru": nn.GRU,
    "rnn": nn.RNN,
}

_STEPS: dict[CellName, Callable[..., Tensor | tuple[Tensor, Tensor]]] = {
    "lstm": torch.lstm_cell,
    "gru": torch.gru_cell,
    "rnn": torch.rnn_tanh_cell,
}

PARTS: dict[CellName, int] = {"lstm": 2, "gru": 1, "rnn": 1}
"""Of a state: the LSTM's are hidden and cell, the others have a hidden part alone."""


class ResidualRNN(nn.Module):
    """Layers of one kind; each beyond the first adds its input to its output, so that depth costs no gradient.

    The residual connections are those of Wu et al. 2016, "Google's neural machine translation system", section 3.1;
    dropout lies before each layer beyond the first. (torch's own stacked networks have no residual connections.)
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        *,
        cell: CellName = "lstm",
        layers: int = 1,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.parts, self._step = PARTS[cell], _STEPS[cell]
        sizes = [input_size] + [hidden_size] * (layers - 1)
        self.layers = nn.ModuleList(
            _CELLS[cell](size, hidden_size, batch_first=True) for size in sizes
        )
        self.dropout = nn.Dropout(dropout)

    def forward(self, inputs: Tensor, state: Sequence[Tensor]) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Read (N, T, input size) from the state, `parts` times (N, L, H), on: (N, T, H) and the new state."""
        ends = []
        for number, layer in enumerate(self.layers):
            below = self.dropout(inputs) if number else inputs
            own = tuple(part[:, number] for part in state)  # (N, H)
            read = self._one if inputs.shape[1] == 1 else self._all
            outputs, end = read(cast(nn.RNNBase, layer), below, own)
            inputs = inputs + outputs if number else outputs
            ends.append(end)
        return inputs, tuple(torch.stack(part, dim=1) for part in zip(*ends, strict=True))

    def _all(
        self, layer: nn.RNNBase, inputs: Tensor, state: tuple[Tensor, ...]
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        own = tuple(part.unsqueeze(0).contiguous() for part in state)  # torch's: (1, N, H)
        outputs, end = layer(inputs, own if self.parts == 2 else own[0])
        return outputs, tuple(part.squeeze(0) for part in (end if self.parts == 2 else (end,)))

    def _one(
        self, layer: nn.RNNBase, inputs: Tensor, state: tuple[Tensor, ...]
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Take one step, which by a whole layer costs two to three times as much in training: it sets up a sequence."""
        end = self._step(
            inputs.squeeze(1), state if self.parts == 2 else state[0], *layer.all_weights[0]
        )
        parts = end if isinstance(end, tuple) else (end,)
        return parts[0].unsqueeze(1), parts
