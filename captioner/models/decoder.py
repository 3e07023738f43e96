"""The decoder: an RNN over token embeddings, conditioned on the encoder's memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, cast

import torch
from torch import Tensor, nn

from captioner.config.schema import CellName
from captioner.models.context import Context, InitialStateOnly
from captioner.types import DecoderOutput, Memory, State, materialize

# Captions per RNN call; on a GPU all at once, since its time depends on the number of steps only.
_GROUP_SIZE = {"cpu": 80}
_VOCABULARY_PARAMETERS = {"embedding.weight", "output.weight", "output.bias"}  # (V, ...)

# they hold the weights of one layer and run whole sequences
LAYERS: dict[CellName, type[nn.LSTM] | type[nn.GRU] | type[nn.RNN]] = {
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
            LAYERS[cell](size, hidden_size, batch_first=True) for size in input_sizes
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


class RecurrentDecoder(nn.Module):
    """Compute the features from which each next token is predicted.

    The memory's summary (B, C) is projected onto the initial state (Xu et al. 2015, section 3.1.2),
    unless `context` passes it in another way; see `captioner.models.context`. With the bridge
    "copy", the decoder starts from the last state of a text encoder, layer by layer (Sutskever et
    al. 2014, "Sequence to sequence learning with neural networks"). With a context that
    does not depend on the hidden state, training makes one RNN call for whole captions; decoding
    goes step by step. Both compute the same features.

    Args:
        vocab_size: V.
        memory_size: C, the encoder's channels.
        embed_size: E.
        hidden_size: H.
        cell: the type of the RNN's cells.
        layers: L.
        dropout: on embeddings, between layers and on the features of the output layer.
        image_dropout: on the memory. Data sets have few images, to which models soon overfit.
        bridge: how the memory sets the initial state: "affine" projects its summary, "copy" takes
            its final state, whose sizes must be those of this RNN.
        tie_embedding: share one matrix (V, E) between the embedding and the output layer (Press
            and Wolf 2017, "Using the output embedding to improve language models"). If E differs
            from the number of features H + S, a linear layer projects the features to E.
        context: how the memory reaches the decoder; by default only through the initial state.
    """

    def __init__(
        self,
        *,
        vocab_size: int,
        memory_size: int,
        embed_size: int = 512,
        hidden_size: int = 512,
        cell: CellName = "lstm",
        layers: int = 1,
        dropout: float = 0.0,
        image_dropout: float = 0.0,
        bridge: Literal["affine", "copy"] = "affine",
        tie_embedding: bool = False,
        context: Context | None = None,
    ) -> None:
        super().__init__()
        self.layers, self.hidden_size, self.bridge = layers, hidden_size, bridge
        self.context = context or InitialStateOnly()
        self.embedding = nn.Embedding(vocab_size, embed_size)
        self.initial = (
            nn.Linear(memory_size, STATE_PARTS[cell] * layers * hidden_size)
            if self.context.sets_initial_state and bridge == "affine"
            else None
        )
        self.rnn = ResidualRNN(
            embed_size + self.context.input_size,
            hidden_size,
            cell=cell,
            layers=layers,
            dropout=dropout,
        )
        self.dropout, self.image_dropout = nn.Dropout(dropout), nn.Dropout(image_dropout)
        feature_size = hidden_size + self.context.output_size  # H + S
        self.output_projection: nn.Module = nn.Identity()
        if tie_embedding and feature_size != embed_size:
            # without a bias, because the output layer has one
            self.output_projection = nn.Linear(feature_size, embed_size, bias=False)
            feature_size = embed_size
        self.output = nn.Linear(feature_size, vocab_size)  # D = feature_size
        if tie_embedding:
            # with PyTorch's unit normal, the logits would be sqrt(E) times as large at the start
            nn.init.normal_(self.embedding.weight, std=embed_size**-0.5)
            self.output.weight = self.embedding.weight

    @property
    def state_parts(self) -> int:
        """The number of parts of the state: the RNN's, then the context's."""
        return self.rnn.state_parts + self.context.state_parts

    def init_state(self, memory: Memory) -> State:
        """Return the state before <bos>: the RNN's parts (B, L, H), and those of the context."""
        memory = memory._replace(
            summary=self.image_dropout(memory.summary), grid=self.image_dropout(memory.grid)
        )
        rnn_state = self._initial_rnn_state(memory)
        first_input = self.context.first_input(memory)  # (B, E)
        if first_input is not None:
            _, rnn_state = self.rnn(self.dropout(first_input).unsqueeze(1), rnn_state)
        return (*rnn_state, *self.context.init(memory))

    def _initial_rnn_state(self, memory: Memory) -> tuple[Tensor, ...]:
        sizes = (memory.summary.shape[0], self.rnn.state_parts, self.layers, self.hidden_size)
        if not self.context.sets_initial_state:
            return memory.summary.new_zeros(sizes).unbind(dim=1)  # state_parts times (B, L, H)
        if self.initial is None:
            return cast(tuple[Tensor, ...], memory.final_state)  # `build_model` checked its sizes
        projected: Tensor = self.initial(memory.summary)  # (B, state_parts * L * H)
        return projected.view(sizes).unbind(dim=1)

    def forward(self, inputs: Tensor, mask: Tensor, state: State) -> DecoderOutput:
        """Compute the features (M, D) of whole captions (teacher forcing).

        Args:
            inputs: token ids (N, T-1): without the last token.
            mask: (N, T-1), False at padding, which follows the tokens of each caption.
            state: the state before the first token, (N, ...).

        Returns:
            One row for each of the M real tokens, ordered as `inputs[mask]`.
        """
        if self.context.depends_on_hidden:
            return self._forward_stepwise(inputs, mask, state)
        return DecoderOutput(self.dropout(self._forward_grouped(inputs, mask, state)))

    def _forward_grouped(self, inputs: Tensor, mask: Tensor, state: State) -> Tensor:
        """Compute the features with one RNN call for each group of captions.

        A group is as long as its longest caption, so that padding costs little where captions come
        sorted by length. On a CPU this takes four fifths of the time of a packed sequence, whose
        steps PyTorch does not fuse.
        """
        size = _GROUP_SIZE.get(inputs.device.type, len(inputs))
        groups = []
        for start in range(0, len(inputs), size):
            rows = slice(start, start + size)
            length = int(mask[rows].sum(dim=1).max())  # t
            rnn_state, context_state = self._split(tuple(part[rows] for part in state))
            context = self.context.attend(rnn_state[0][:, -1], context_state).context  # (n, S)
            context = context.unsqueeze(1).expand(-1, length, -1)  # the same at every step
            rnn_inputs = self._rnn_inputs(inputs[rows, :length], context)
            hidden, _ = self.rnn(rnn_inputs, rnn_state)  # (n, t, H)
            features = self._features(hidden, context)  # (n, t, D)
            groups.append(features[mask[rows, :length]])  # (m, D)
        return torch.cat(groups)

    def _forward_stepwise(self, inputs: Tensor, mask: Tensor, state: State) -> DecoderOutput:
        """Compute the features of all captions one step at a time.

        The captions are sorted, the longest first: at each step, those that have not ended are the
        first `active` rows, and the others are dropped.
        """
        order = mask.sum(dim=1).argsort(descending=True, stable=True)  # (N,)
        inputs = inputs[order]
        state = tuple(materialize(part[order]) for part in state)
        slot = torch.empty_like(inputs)  # (N, T-1) row of each token in the concatenated outputs
        outputs: list[DecoderOutput] = []
        done = 0
        # the last columns of the mask may hold padding only: no caption is active there
        for step, active in enumerate(filter(None, mask.sum(dim=0).tolist())):
            if active < state[0].shape[0]:  # a slice costs a copy of its part in the backward pass
                state = tuple(part[:active] for part in state)
            output, state = self._step(inputs[:active, step], state)
            outputs.append(output)
            slot[:active, step] = torch.arange(done, done + active, device=slot.device)
            done += active
        index = torch.empty_like(slot).index_copy_(0, order, slot)[mask]  # (M,) original order
        hidden = torch.cat([output.hidden for output in outputs])  # (M, D)
        weights = torch.cat([cast(Tensor, output.weights) for output in outputs])  # (M, P)
        return DecoderOutput(self.dropout(hidden)[index], weights[index])

    def step(self, token_ids: Tensor, state: State) -> tuple[Tensor, State]:
        """Return the features (N, D) after one more token of each caption (N,), and the state."""
        output, state = self._step(token_ids, state)
        return self.dropout(output.hidden), state

    def _step(self, token_ids: Tensor, state: State) -> tuple[DecoderOutput, State]:
        rnn_state, context_state = self._split(state)
        top_hidden = rnn_state[0][:, -1]  # (N, H)
        context, weights = self.context.attend(top_hidden, context_state)
        context = context.unsqueeze(1)  # (N, 1, S)
        rnn_inputs = self._rnn_inputs(token_ids.unsqueeze(1), context)
        hidden, rnn_state = self.rnn(rnn_inputs, rnn_state)  # (N, 1, H)
        features = self._features(hidden, context).squeeze(1)  # (N, D)
        return DecoderOutput(features, weights), (*rnn_state, *context_state)

    def _rnn_inputs(self, token_ids: Tensor, context: Tensor) -> Tensor:
        embedded: Tensor = self.dropout(self.embedding(token_ids))  # (N, T, E)
        return torch.cat([embedded, context], dim=2) if self.context.input_size else embedded

    def _features(self, hidden: Tensor, context: Tensor) -> Tensor:
        # the deep output layer of Xu et al. 2015, equation 7, without its embedding term
        if self.context.output_size:
            hidden = torch.cat([hidden, context], dim=2)  # (N, T, H + S)
        features: Tensor = self.output_projection(hidden)  # (N, T, D)
        return features

    def _split(self, state: State) -> tuple[tuple[Tensor, ...], State]:
        parts = self.rnn.state_parts
        return cast(tuple[Tensor, ...], state[:parts]), state[parts:]

    @torch.no_grad()
    def copy_weights(self, other: RecurrentDecoder) -> None:
        """Copy the weights of an equal decoder whose vocabulary is the beginning of this one's."""
        known = other.embedding.num_embeddings
        own_state = self.state_dict()
        for name, weight in other.state_dict().items():
            rows = known if name in _VOCABULARY_PARAMETERS else None
            own_state[name][:rows] = weight
