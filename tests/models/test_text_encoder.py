"""The text encoder: what it computes, that padding changes nothing, and both bridges."""

import pytest
import torch
from torch import nn

from captioner.config.schema import DecoderConfig, ModelConfig, TextEncoderConfig
from captioner.errors import UsageError
from captioner.models.build import build_model
from captioner.models.text_encoder import TextEncoder
from captioner.text.tokenizer import BOS, EOS, PAD
from captioner.types import Batch, materialize

CELLS = ["lstm", "gru", "rnn"]
VOCABULARY = 12
TEXTS = [[4, 5, 6, 7, 8], [9, 4], [5, 6, 11]]


def padded(texts, length=5):
    """The texts as one tensor, with <pad> after the tokens of each."""
    return torch.tensor([[*text, *[PAD] * (length - len(text))] for text in texts])


def encoder_of(**settings):
    torch.manual_seed(0)
    return TextEncoder(vocab_size=VOCABULARY, embed_size=6, hidden_size=4, **settings).eval()


def model_of(*, context="none", bridge="affine", cell="gru", layers=1, **encoder):
    torch.manual_seed(0)
    encoder = {"cell": cell, "layers": layers, "embed_size": 6, "hidden_size": 4} | encoder
    hidden_size = 8 if encoder.get("bidirectional", True) else 4
    config = ModelConfig(
        encoder=TextEncoderConfig(dropout=0.0, **encoder),
        decoder=DecoderConfig(
            cell=cell,
            layers=layers,
            context=context,
            bridge=bridge,
            embed_size=6,
            hidden_size=hidden_size,
            attention_size=5,
            dropout=0.0,
        ),
    )
    return build_model(config, vocab_size=10, source_vocab_size=VOCABULARY).eval()


def test_a_plain_encoder_of_two_steps_computes_the_equations_by_hand():
    encoder = encoder_of(cell="rnn", bidirectional=False)
    weights = dict(encoder.rnn.named_parameters())
    w, u = weights["weight_ih_l0"], weights["weight_hh_l0"]
    b = weights["bias_ih_l0"] + weights["bias_hh_l0"]
    x = encoder.embedding.weight
    first = torch.tanh(w @ x[4] + b)  # the state before it is zero
    second = torch.tanh(w @ x[9] + u @ first + b)
    memory = encoder(torch.tensor([[4, 9]]))
    torch.testing.assert_close(memory.grid, torch.stack([first, second]).unsqueeze(0))
    torch.testing.assert_close(memory.summary, second.unsqueeze(0))
    torch.testing.assert_close(memory.final_state, (second.view(1, 1, -1),))


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("bidirectional", [False, True])
class TestPadding:
    def test_more_padding_and_other_texts_of_the_batch_change_nothing(
        self, cell, reverse, bidirectional
    ):
        encoder = encoder_of(cell=cell, layers=2, reverse=reverse, bidirectional=bidirectional)
        batch = encoder(padded(TEXTS, length=9))
        for row, text in enumerate(TEXTS):
            alone, size = encoder(torch.tensor([text])), len(text)
            torch.testing.assert_close(batch.summary[row], alone.summary[0])
            torch.testing.assert_close(batch.grid[row, :size], alone.grid[0])
            assert batch.mask[row].tolist() == [True] * size + [False] * (9 - size)
            for part, own in zip(batch.final_state, alone.final_state, strict=True):
                torch.testing.assert_close(part[row], own[0])

    def test_the_order_of_the_batch_changes_nothing(self, cell, reverse, bidirectional):
        encoder = encoder_of(cell=cell, layers=2, reverse=reverse, bidirectional=bidirectional)
        order = torch.tensor([2, 0, 1])
        memory, shuffled = encoder(padded(TEXTS)), encoder(padded(TEXTS)[order])
        torch.testing.assert_close(shuffled.summary, memory.summary[order])
        torch.testing.assert_close(shuffled.grid, memory.grid[order])


@pytest.mark.parametrize("bidirectional", [False, True])
def test_reading_backwards_equals_reading_the_reversed_text(bidirectional):
    forwards = encoder_of(layers=2, bidirectional=bidirectional)
    backwards = encoder_of(layers=2, bidirectional=bidirectional, reverse=True)
    reversed_texts = [text[::-1] for text in TEXTS]
    expected, memory = forwards(padded(reversed_texts)), backwards(padded(TEXTS))
    torch.testing.assert_close(memory.summary, expected.summary)
    for row, text in enumerate(TEXTS):  # position p of the grid is token p in both orders
        size = len(text)
        torch.testing.assert_close(memory.grid[row, :size], expected.grid[row, :size].flip(0))


def test_the_summary_joins_the_last_state_of_each_direction_in_the_top_layer():
    encoder = encoder_of(layers=2)
    memory = encoder(padded(TEXTS))
    forwards, backwards = memory.grid[..., :4], memory.grid[..., 4:]
    for row, text in enumerate(TEXTS):
        ends = torch.cat([forwards[row, len(text) - 1], backwards[row, 0]])
        torch.testing.assert_close(memory.summary[row], ends)


@pytest.mark.parametrize("cell", CELLS)
def test_the_bridge_copy_equals_a_decoder_that_goes_on_from_the_encoder(cell):
    model = model_of(cell=cell, bridge="copy", bidirectional=False)
    decoder_rnn = model.decoder.rnn.layers[0]
    decoder_rnn.load_state_dict(model.encoder.rnn.state_dict())
    with torch.no_grad():  # both read the same embeddings
        model.decoder.embedding.weight[:] = model.encoder.embedding.weight[:10]
    source, target = [4, 5, 6], [BOS, 7, 8]
    whole, _ = decoder_rnn(model.encoder.embedding(torch.tensor([[*source, *target]])))  # (1, 6, H)
    state = model.init_state(torch.tensor([source]))
    batch = Batch(
        torch.tensor([source]),
        torch.tensor([[*target, EOS]]),
        torch.ones((1, 4), dtype=torch.bool),
        torch.tensor([0]),
        torch.tensor([0]),
    )
    torch.testing.assert_close(model.decode(batch, state).hidden, whole[0, len(source) :])


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("bidirectional", [False, True])
def test_the_bridge_copy_starts_every_layer_from_its_own_last_state(cell, bidirectional):
    model = model_of(cell=cell, layers=3, bridge="copy", bidirectional=bidirectional)
    source = padded(TEXTS)
    own_rnn: nn.RNNBase = model.encoder.rnn
    row, text = 1, TEXTS[1]
    _, last = own_rnn(model.encoder.embedding(torch.tensor([text])))
    parts = last if isinstance(last, tuple) else (last,)
    state = model.init_state(source)
    for part, expected in zip(state, parts, strict=True):
        directions = 2 if bidirectional else 1
        by_layer = expected.view(3, directions, 4)  # PyTorch: layers, then directions
        torch.testing.assert_close(part[row], by_layer.flatten(1))


@pytest.mark.parametrize(
    ("setting", "value"), [("cell", "lstm"), ("layers", 2), ("hidden_size", 6)]
)
def test_the_bridge_copy_names_the_size_that_does_not_agree(setting, value):
    sizes = {"cell": "gru", "layers": 1, "hidden_size": 8} | {setting: value}
    config = ModelConfig(
        encoder=TextEncoderConfig(hidden_size=4), decoder=DecoderConfig(bridge="copy", **sizes)
    )
    with pytest.raises(UsageError, match=rf"decoder\.{setting}=.* not {value}"):
        build_model(config, vocab_size=10)


@pytest.mark.parametrize("context", ["first_token", "merge"])
def test_the_bridge_copy_is_refused_where_the_initial_state_is_zero(context):
    config = ModelConfig(
        encoder=TextEncoderConfig(hidden_size=4),
        decoder=DecoderConfig(bridge="copy", cell="gru", hidden_size=8, context=context),
    )
    with pytest.raises(UsageError, match=f"no effect with decoder.context={context}"):
        build_model(config, vocab_size=10)


def test_an_image_encoder_has_no_state_to_copy():
    config = ModelConfig(decoder=DecoderConfig(bridge="copy"))
    with pytest.raises(UsageError, match="needs a text encoder"):
        build_model(config, vocab_size=10)


@pytest.mark.parametrize("context", ["none", "first_token", "every_step", "attention", "merge"])
@pytest.mark.parametrize("cell", CELLS)
def test_decoding_step_by_step_equals_teacher_forcing_in_every_context(context, cell):
    model = model_of(context=context, cell=cell)
    tokens = torch.tensor([[BOS, 5, 6, EOS]] * 3)
    index = torch.arange(3)
    batch = Batch(padded(TEXTS), tokens, torch.ones_like(tokens, dtype=torch.bool), index, index)
    state = model.init_state(batch.source)
    expected = model.log_probs(batch, state).view(3, 3)
    for position in range(3):
        log_probs, state = model.step(tokens[:, position], state)
        chosen = log_probs.gather(1, tokens[:, position + 1 : position + 2]).squeeze(1)
        torch.testing.assert_close(chosen, expected[:, position])


def test_attention_gives_no_weight_to_padding():
    model = model_of(context="attention")
    state = model.init_state(padded(TEXTS))
    context_state = state[model.decoder.rnn.state_parts :]
    hidden = materialize(state[0])[:, -1]
    weights = model.decoder.context.attend(hidden, context_state).weights
    assert torch.equal(weights > 0, padded(TEXTS) != PAD)
    torch.testing.assert_close(weights.sum(dim=1), torch.ones(3))


def test_a_vocabulary_of_one_word_is_enough():
    encoder = TextEncoder(vocab_size=5, embed_size=3, hidden_size=2)
    memory = encoder(torch.tensor([[4]]))
    assert memory.summary.shape == (1, 4)
    assert torch.equal(memory.grid[:, 0], memory.summary)


def test_a_text_encoder_has_no_stages_to_fine_tune():
    encoder = encoder_of()
    encoder.finetune(None)
    assert all(weight.requires_grad for weight in encoder.parameters())
    with pytest.raises(UsageError, match="no stages"):
        encoder.finetune("layer4")
