"""A translator written the usual way: the baseline of the translation workloads.

It follows two tutorials: "NLP from scratch: translation with a sequence to sequence network and
attention" of PyTorch, and "pytorch-seq2seq" of Ben Trevett. A loop over the target steps calls the
decoder with one token of each sentence; attention projects the states of the encoder again at each
step; padding is computed like any token, and only the loss ignores it; beam search extends one beam
of one sentence at a time.

Letters in shapes: N sentences; P source tokens; T target tokens, from <bos> to <eos>; C size of an
encoder state; E embedding size; H hidden size; A attention size; V vocabulary size.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

PAD, BOS, EOS, UNK = range(4)
RNNS = {"lstm": nn.LSTM, "gru": nn.GRU}
State = tuple[Tensor, ...]  # of the decoder's RNN, (1, N, H) each: hidden state, cell of an LSTM


class Encoder(nn.Module):
    """Embedding and RNN."""

    def __init__(
        self,
        vocab_size: int,
        *,
        cell: Literal["lstm", "gru"],
        bidirectional: bool,
        embed_size: int,
        hidden_size: int,
        dropout: float,
    ) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocab_size, embed_size)
        self.rnn = RNNS[cell](
            embed_size, hidden_size, bidirectional=bidirectional, batch_first=True
        )
        self.dropout = nn.Dropout(dropout)

    def forward(self, source: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Return the states of all tokens (N, P, C), and that of each sentence's last token (N, C).

        The backward direction of an RNN must not start in the padding: it needs a packed sequence.
        """
        embedded = self.dropout(self.embedding(source))  # (N, P, E)
        if not self.rnn.bidirectional:
            states, _ = self.rnn(embedded)  # of padding too
            rows = torch.arange(len(lengths), device=lengths.device)
            return states, states[rows, lengths - 1]
        packed = pack_padded_sequence(
            embedded, lengths.cpu(), batch_first=True, enforce_sorted=False
        )
        packed_states, last = self.rnn(packed)
        states, _ = pad_packed_sequence(packed_states, batch_first=True)
        hidden = last[0] if isinstance(last, tuple) else last  # (2, N, H)
        return states, torch.cat([hidden[0], hidden[1]], dim=1)


class Attention(nn.Module):
    """Additive attention (Bahdanau et al. 2015) with a gate (Xu et al. 2015, section 4.2.1)."""

    def __init__(self, memory_size: int, hidden_size: int, size: int) -> None:
        super().__init__()
        self.key = nn.Linear(memory_size, size)
        self.query = nn.Linear(hidden_size, size, bias=False)
        self.score = nn.Linear(size, 1, bias=False)
        self.gate = nn.Linear(hidden_size, 1)

    def forward(self, hidden: Tensor, states: Tensor, mask: Tensor) -> Tensor:
        """Return the context (N, C) of hidden states (N, H)."""
        energy = torch.tanh(self.query(hidden).unsqueeze(1) + self.key(states))  # (N, P, A)
        scores = self.score(energy).squeeze(2).masked_fill(~mask, -torch.inf)  # (N, P)
        weights = scores.softmax(dim=1)
        context = torch.bmm(weights.to(states.dtype).unsqueeze(1), states).squeeze(1)  # (N, C)
        gated: Tensor = self.gate(hidden).sigmoid() * context
        return gated


class Decoder(nn.Module):
    """One step: attention, RNN, output layer. The output layer shares the embedding's matrix."""

    def __init__(
        self,
        vocab_size: int,
        *,
        cell: Literal["lstm", "gru"],
        memory_size: int,
        attention_size: int | None,
        embed_size: int,
        hidden_size: int,
        dropout: float,
    ) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocab_size, embed_size)
        self.initial = nn.Linear(memory_size, hidden_size * (2 if cell == "lstm" else 1))
        self.attention, context_size = None, 0
        if attention_size is not None:
            self.attention = Attention(memory_size, hidden_size, attention_size)
            context_size = memory_size
        self.rnn = RNNS[cell](embed_size + context_size, hidden_size, batch_first=True)
        self.output_projection = nn.Linear(hidden_size + context_size, embed_size, bias=False)
        self.output = nn.Linear(embed_size, vocab_size)
        self.output.weight = self.embedding.weight
        self.dropout = nn.Dropout(dropout)

    def init_state(self, last: Tensor) -> State:
        """Return the state before <bos>, an affine map of the encoder's last state (N, C)."""
        parts = self.initial(last).split(self.rnn.hidden_size, dim=1)  # (N, H) each
        return tuple(part.unsqueeze(0).contiguous() for part in parts)

    def forward(
        self, token_ids: Tensor, state: State, states: Tensor, mask: Tensor
    ) -> tuple[Tensor, State]:
        """Return the logits (N, V) of the tokens that follow `token_ids` (N,), and the state."""
        inputs = self.dropout(self.embedding(token_ids)).unsqueeze(1)  # (N, 1, E)
        if self.attention is None:
            features, new = self._run(inputs, state)
        else:
            context = self.attention(state[0][0], states, mask).unsqueeze(1)  # (N, 1, C)
            hidden, new = self._run(torch.cat([inputs, context], dim=2), state)
            features = torch.cat([hidden, context], dim=2)  # (N, 1, H + C)
        return self.output(self.dropout(self.output_projection(features.squeeze(1)))), new

    def _run(self, inputs: Tensor, state: State) -> tuple[Tensor, State]:
        hidden, new = self.rnn(inputs, state if len(state) == 2 else state[0])  # (N, 1, H)
        return hidden, new if isinstance(new, tuple) else (new,)


class PlainTranslator(nn.Module):
    """Encoder and decoder, trained with teacher forcing."""

    def __init__(self, encoder: Encoder, decoder: Decoder) -> None:
        super().__init__()
        self.encoder, self.decoder = encoder, decoder

    def forward(self, source: Tensor, lengths: Tensor, target: Tensor) -> Tensor:
        """Return the logits (N, T-1, V) of each next token, given the true tokens before it."""
        states, last = self.encoder(source, lengths)
        mask, state, outputs = source != PAD, self.decoder.init_state(last), []
        for token_ids in target[:, :-1].unbind(dim=1):  # (N,)
            logits, state = self.decoder(token_ids, state, states, mask)
            outputs.append(logits)
        return torch.stack(outputs, dim=1)

    def loss(self, source: Tensor, lengths: Tensor, target: Tensor) -> Tensor:
        """Return the mean cross-entropy of a token; source (N, P), lengths (N,), target (N, T)."""
        logits = self(source, lengths, target).flatten(0, 1)  # (N * (T-1), V)
        return nn.functional.cross_entropy(logits, target[:, 1:].flatten(), ignore_index=PAD)


class Beam(NamedTuple):
    """The beginning of a translation."""

    token_ids: list[int]  # from <bos> on
    log_prob: float  # of these tokens, summed
    state: State  # before the last of them

    def score(self, length_alpha: float) -> float:
        """Return the normalised log-probability (Wu et al. 2016, equation 14)."""
        length = len(self.token_ids) - 1  # without <bos>
        return self.log_prob / float(((5 + length) / 6) ** length_alpha)


@torch.no_grad()
def beam_search(
    model: PlainTranslator,
    source_ids: list[int],
    *,
    num_beams: int,
    max_length: int,
    length_alpha: float,
) -> list[int]:
    """Return the best translation of one sentence that `num_beams` beams find.

    A beam that reaches <eos> is finished, and the search continues with one beam fewer.
    """
    device = model.decoder.output.weight.device
    source = torch.tensor([source_ids], device=device)  # (1, P)
    states, last = model.encoder(source, torch.tensor([len(source_ids)], device=device))
    beams = [Beam([BOS], 0.0, model.decoder.init_state(last))]
    finished: list[Beam] = []
    for length in range(max_length + 1):
        extended = []
        for beam in beams:
            token = torch.tensor(beam.token_ids[-1:], device=device)  # (1,)
            logits, state = model.decoder(token, beam.state, states, source != PAD)
            log_probs = logits[0].float().log_softmax(dim=0)  # (V,)
            log_probs[[PAD, BOS, UNK]] = -torch.inf  # never part of a translation
            best_ids = log_probs.topk(num_beams).indices.tolist()
            for token_id in best_ids if length < max_length else [EOS]:
                log_prob = beam.log_prob + log_probs[token_id].item()
                extended.append(Beam([*beam.token_ids, token_id], log_prob, state))
        extended.sort(key=lambda beam: beam.log_prob, reverse=True)
        kept = extended[: num_beams - len(finished)]
        finished += [beam for beam in kept if beam.token_ids[-1] == EOS]
        beams = [beam for beam in kept if beam.token_ids[-1] != EOS]
    return max(finished, key=lambda beam: beam.score(length_alpha)).token_ids[1:-1]
