"""Stacked LSTM, GRU or tanh RNN layers with residual connections."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import cast

import torch
from torch import Tensor, nn

from captioner.config.schema import CellName

# they hold the weights of one layer and run whole sequences
_LAYERS: dict[CellName, type[nn.LSTM] | type[nn.GRU] | type[nn.RNN]] = {
    "lstm": nn.LSTM,
    "gru": nn.GRU,
    "rnn": nn.RNN,
}

# they compute one step with the same weights
_CELLS: dict[CellName, Callable[..., Tensor | tuple[Tensor, Tensor]]] = {
    "lstm": torch.lstm_cell,
    "gru": torch.gru_cell,
    "rnn": torch.rnn_tanh_cell,
}

STATE_PARTS: dict[CellName, int] = {"lstm": 2, "gru": 1, "rnn": 1}  # LSTM: hidden and cell state


class ResidualRNN(nn.Module):
    """RNN layers; each layer after the first adds its input to its output.

    Wu et al. 2016, "Google's neural machine translation system", section 3.1. Dropout is applied
    to the input of each layer after the first.
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
        self.state_parts, self._cell = STATE_PARTS[cell], _CELLS[cell]
        input_sizes = [input_size] + [hidden_size] * (layers - 1)
        self.layers = nn.ModuleList(
            _LAYERS[cell](size, hidden_size, batch_first=True) for size in input_sizes
        )
        self.dropout = nn.Dropout(dropout)

    def forward(self, inputs: Tensor, state: Sequence[Tensor]) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Return the top layer's outputs (N, T, H), and the new state; its parts are (N, L, H)."""
        run = self._run_cell if inputs.shape[1] == 1 else self._run_sequence
        last_states = []
        for index, layer in enumerate(self.layers):
            layer_state = tuple(part[:, index] for part in state)  # each (N, H)
            layer_inputs = self.dropout(inputs) if index > 0 else inputs
            outputs, last_state = run(cast(nn.RNNBase, layer), layer_inputs, layer_state)
            inputs = inputs + outputs if index > 0 else outputs  # residual connection
            last_states.append(last_state)
        # from one tuple for each layer to one tensor (N, L, H) for each part
        return inputs, tuple(torch.stack(part, dim=1) for part in zip(*last_states, strict=True))

    def _run_sequence(
        self, layer: nn.RNNBase, inputs: Tensor, state: tuple[Tensor, ...]
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        first = tuple(part.unsqueeze(0).contiguous() for part in state)  # PyTorch's: (1, N, H)
        # an LSTM takes and returns the tuple (h, c), the others the tensor h
        outputs, last = layer(inputs, first if self.state_parts == 2 else first[0])  # (N, T, H)
        parts = last if self.state_parts == 2 else (last,)  # each (1, N, H)
        return outputs, tuple(part.squeeze(0) for part in parts)

    def _run_cell(
        self, layer: nn.RNNBase, inputs: Tensor, state: tuple[Tensor, ...]
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        # one step: calling the whole layer takes two to three times as long, in training
        previous = state if self.state_parts == 2 else state[0]
        new = self._cell(inputs.squeeze(1), previous, *layer.all_weights[0])  # of its one layer
        parts = new if isinstance(new, tuple) else (new,)  # each (N, H)
        return parts[0].unsqueeze(1), parts
