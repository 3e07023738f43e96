"""From a memory to words: a recurrent network with the vocabulary at both ends. Knows nothing of images."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from captioner.config.schema import CellName
from captioner.errors import UsageError
from captioner.models.context import Context, InitialStateOnly
from captioner.models.rnn import PARTS, ResidualRNN
from captioner.types import DecoderOutput, Memory, State, rows_of

_GROUP = {
    "cpu": 80
}  # captions read together; elsewhere all of them, since a GPU minds the number of steps alone


class RecurrentDecoder(nn.Module):
    """Write a caption word by word, starting from what the encoder saw.

    The memory's summary (B, C) is projected onto the initial state by one affine map, for every part (an LSTM has two:
    hidden and cell) and layer, unless `context` hands it over in another way. A whole caption is read in one call for
    training wherever what is shown at a step does not depend on the state, and word by word for decoding; both give the
    same vectors.

    While it trains, a share `dropout` of embeddings and of what words are said from is hidden, and a share
    `image_dropout` of the memory: images are few, and soon known by heart.

    Letters here: D is H and the context's vector beside it, from which words are said.

    Vinyals et al. 2015, "Show and tell"; the projection onto the initial state as in Xu et al. 2015, section 3.1.2.

    Raises:
        UsageError: `tie_embedding` with an `embed_size` that is not D.
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
        tie_embedding: bool = False,
        context: Context | None = None,
    ) -> None:
        super().__init__()
        self.layers, self.hidden_size = layers, hidden_size
        self.context = context or InitialStateOnly()
        self.embedding = nn.Embedding(vocab_size, embed_size)
        initial_size = PARTS[cell] * layers * hidden_size
        self.initial = (
            nn.Linear(memory_size, initial_size) if self.context.sets_initial_state else None
        )
        self.rnn = ResidualRNN(
            embed_size + self.context.input_size,
            hidden_size,
            cell=cell,
            layers=layers,
            dropout=dropout,
        )
        self.dropout, self.image_dropout = nn.Dropout(dropout), nn.Dropout(image_dropout)
        said_from = hidden_size + self.context.output_size  # D
        self.output = nn.Linear(said_from, vocab_size)
        if tie_embedding:
            if embed_size != said_from:
                raise UsageError(
                    f"decoder.tie_embedding shares one matrix: set decoder.embed_size ({embed_size}) "
                    f"to what words are said from ({said_from}), or tie_embedding to false"
                )
            self.output.weight = self.embedding.weight

    def init_state(self, memory: Memory) -> State:
        """Give the state before <bos>: parts times (B, L, H), and what the context carries."""
        memory = Memory(
            self.image_dropout(memory.summary), self.image_dropout(memory.grid), memory.mask
        )
        state = self._initial(memory)
        first = self.context.first_input(memory)
        if first is not None:
            _, state = self.rnn(self.dropout(first).unsqueeze(1), state)
        return (*state, *self.context.init(memory))

    def _initial(self, memory: Memory) -> tuple[Tensor, ...]:
        size = (self.rnn.parts, self.layers, self.hidden_size)
        if self.initial is None:
            return memory.summary.new_zeros((len(memory.summary), *size)).unbind(dim=1)
        return self.initial(memory.summary).view(-1, *size).unbind(dim=1)  # type: ignore[no-any-return]

    def forward(self, inputs: Tensor, mask: Tensor, state: State) -> DecoderOutput:
        """Read whole captions (N, T) and give the vector (M, D) after each of their M real words.

        The vectors stand in the order of `inputs[mask]`.
        """
        if self.context.depends_on_hidden:
            return self._word_by_word(inputs, mask, state)
        return DecoderOutput(self.dropout(self._at_once(inputs, mask, state)))

    def _at_once(self, inputs: Tensor, mask: Tensor, state: State) -> Tensor:
        """Read in groups, each as long as its longest, so padding costs little where captions come sorted by length.

        (A packed sequence has no padding, but on a CPU its steps are not fused: groups took four fifths of its time.)
        """
        size = _GROUP.get(inputs.device.type, len(inputs))
        groups = []
        for start in range(0, len(inputs), size):
            rows = slice(start, start + size)
            real = mask[rows, : int(mask[rows].sum(dim=1).max())]  # (n, t)
            recurrent, context_state = self._split(tuple(part[rows] for part in state))
            beside = self.context.attend(
                recurrent[0][:, -1], context_state
            ).context  # (n, S), the same at every step
            beside = beside.unsqueeze(1).expand(-1, real.shape[1], -1)
            hidden, _ = self.rnn(self._inputs(inputs[rows, : real.shape[1]], beside), recurrent)
            groups.append(self._outputs(hidden, beside)[real])  # (m, D)
        return torch.cat(groups)

    def _word_by_word(self, inputs: Tensor, mask: Tensor, state: State) -> DecoderOutput:
        """Read all captions a word at a time, the longest first, so that those which have ended drop off the end."""
        order = mask.sum(dim=1).argsort(descending=True, stable=True)
        inputs = inputs[order]
        state = tuple(rows_of(part[order]) for part in state)
        place = torch.empty_like(inputs)  # (N, T) where the vector after each word will stand
        hidden: list[Tensor] = []
        weights: list[Tensor] = []
        read = 0
        for time, alive in enumerate(filter(None, mask.sum(dim=0).tolist())):
            vector, seen, state = self._advance(
                inputs[:alive, time], tuple(part[:alive] for part in state)
            )
            hidden.append(vector)
            weights.append(cast(Tensor, seen))
            place[:alive, time] = torch.arange(read, read + alive, device=place.device)
            read += alive
        where = torch.empty_like(place).index_copy_(0, order, place)[mask]  # (M,)
        return DecoderOutput(self.dropout(torch.cat(hidden))[where], torch.cat(weights)[where])

    def step(self, words: Tensor, state: State) -> tuple[Tensor, State]:
        """Read one word for each caption (N,) and give the vector (N, D) that says the next, with the new state."""
        vector, _, state = self._advance(words, state)
        return self.dropout(vector), state

    def _advance(self, words: Tensor, state: State) -> tuple[Tensor, Tensor | None, State]:
        recurrent, context_state = self._split(state)
        output = self.context.attend(recurrent[0][:, -1], context_state)
        beside = output.context.unsqueeze(1)  # (N, 1, S)
        hidden, recurrent = self.rnn(self._inputs(words.unsqueeze(1), beside), recurrent)
        return (
            self._outputs(hidden, beside).squeeze(1),
            output.weights,
            (*recurrent, *context_state),
        )

    def _inputs(self, words: Tensor, beside: Tensor) -> Tensor:
        embedded: Tensor = self.dropout(self.embedding(words))  # (N, T, E)
        return torch.cat([embedded, beside], dim=2) if self.context.input_size else embedded

    def _outputs(self, hidden: Tensor, beside: Tensor) -> Tensor:
        return torch.cat([hidden, beside], dim=2) if self.context.output_size else hidden

    def _split(self, state: State) -> tuple[tuple[Tensor, ...], State]:
        return cast(tuple[Tensor, ...], state[: self.rnn.parts]), state[self.rnn.parts :]

    @torch.no_grad()
    def take_over(self, other: RecurrentDecoder) -> None:
        """Take the weights of a decoder of the same shape whose vocabulary is the beginning of this one's."""
        known = other.embedding.num_embeddings
        mine = self.state_dict()
        for name, weight in other.state_dict().items():
            mine[name][: known if name in _BY_WORD else None] = weight


_BY_WORD = {"embedding.weight", "output.weight", "output.bias"}  # whose rows are words
