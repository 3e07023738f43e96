"""Decoder: sequence and step agree, no step depends on later tokens, padding has no effect."""

import pytest
import torch

from captioner.models.context import (
    AdditiveAttention,
    EveryStep,
    FirstToken,
    InitialStateOnly,
    Merge,
)
from captioner.models.decoder import RecurrentDecoder
from captioner.types import Memory, SharedRows, select_state

CELLS = ["lstm", "gru", "rnn"]
CONTEXTS = {
    "none": lambda: InitialStateOnly(),
    "first_token": lambda: FirstToken(memory_size=6, embed_size=5),
    "every_step": lambda: EveryStep(memory_size=6, size=3),
    "attention": lambda: AdditiveAttention(memory_size=6, hidden_size=7, size=4),
    "merge": lambda: Merge(memory_size=6, size=3),
}
ATTENTION = "attention"


def decoder_of(cell="lstm", layers=1, vocab_size=11, context="none", **more):
    torch.manual_seed(0)
    sizes = {"memory_size": 6, "embed_size": 5, "hidden_size": 7}
    return RecurrentDecoder(
        vocab_size=vocab_size, cell=cell, layers=layers, context=CONTEXTS[context](), **sizes | more
    ).eval()


def memory_of(images, seed=1, positions=4):
    grid = torch.randn(images, positions, 6, generator=torch.Generator().manual_seed(seed))
    return Memory(grid.mean(dim=1), grid, torch.ones(images, positions, dtype=torch.bool))


def captions(*lengths):
    """Return random token ids, padded with 0, and their mask."""
    words = torch.randint(
        4, 11, (len(lengths), max(lengths)), generator=torch.Generator().manual_seed(2)
    )
    mask = torch.arange(max(lengths)) < torch.tensor(lengths).unsqueeze(1)
    return words * mask, mask


@pytest.mark.parametrize("context", CONTEXTS)
@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("layers", [1, 3])
def test_a_whole_caption_gives_the_same_features_as_its_steps(context, cell, layers):
    decoder = decoder_of(cell, layers, context=context)
    words, mask = captions(5, 5, 5)
    state = decoder.init_state(memory_of(3))
    sequence = decoder(words, mask, state).hidden.view(3, 5, -1)
    for step in range(5):
        hidden, state = decoder.step(words[:, step], state)
        torch.testing.assert_close(hidden, sequence[:, step])


@pytest.mark.parametrize("cell", CELLS)
def test_every_tensor_of_the_state_is_batch_first(cell):
    decoder = decoder_of(cell, layers=2)
    state = decoder.init_state(memory_of(3))
    _, new = decoder.step(torch.tensor([4, 5, 6]), state)
    assert (
        [part.shape for part in state]
        == [part.shape for part in new]
        == [(3, 2, 7)] * (2 if cell == "lstm" else 1)
    )


@pytest.mark.parametrize("context", CONTEXTS)
@pytest.mark.parametrize("cell", CELLS)
def test_features_are_ordered_as_the_mask_and_padding_changes_none(context, cell):
    decoder = decoder_of(cell, context=context)
    words, mask = captions(2, 5, 3)
    state = decoder.init_state(memory_of(3))
    batched = decoder(words, mask, state).hidden
    one_by_one = [
        decoder(
            words[row : row + 1, :length],
            mask[row : row + 1, :length],
            tuple(part[row : row + 1] for part in state),
        ).hidden
        for row, length in enumerate([2, 5, 3])
    ]
    torch.testing.assert_close(batched, torch.cat(one_by_one))


@pytest.mark.parametrize("context", CONTEXTS)
def test_no_step_depends_on_later_tokens(context):
    decoder = decoder_of(layers=2, context=context)
    words, mask = captions(6)
    state = decoder.init_state(memory_of(1))
    changed = words.clone()
    changed[0, 3] = 4 if words[0, 3] != 4 else 5
    before, after = decoder(words, mask, state).hidden, decoder(changed, mask, state).hidden
    torch.testing.assert_close(before[:3], after[:3])
    assert not torch.allclose(before[3:], after[3:])


@pytest.mark.parametrize("context", CONTEXTS)
def test_features_depend_on_the_image_from_the_first_step_on(context):
    decoder = decoder_of(context=context)
    words, mask = captions(4)
    one, other = (
        decoder(words, mask, decoder.init_state(memory_of(1, seed))).hidden for seed in (1, 2)
    )
    assert not torch.isclose(one, other).all(dim=1).any()


@pytest.mark.parametrize("context", CONTEXTS)
def test_every_parameter_gets_a_gradient(context):
    decoder = decoder_of(context=context)
    words, mask = captions(4, 2)
    decoder.output(decoder(words, mask, decoder.init_state(memory_of(2))).hidden).logsumexp(
        dim=1
    ).sum().backward()
    assert all(weight.grad.abs().sum() > 0 for weight in decoder.parameters())


@pytest.mark.parametrize("context", CONTEXTS)
def test_image_dropout_changes_the_state_but_only_in_training(context):
    decoder, memory = decoder_of(context=context, image_dropout=0.5), memory_of(2)
    plain = flat(decoder_of(context=context).init_state(memory))
    assert flat(decoder.init_state(memory)) == plain
    decoder.train()
    assert len({flat(decoder.init_state(memory)) for _ in range(3)} | {plain}) == 4


def test_image_dropout_zeroes_a_share_of_the_grid_that_attention_reads():
    decoder = decoder_of(context=ATTENTION, image_dropout=0.5).train()
    memory = Memory(torch.ones(20, 6), torch.ones(20, 4, 6), torch.ones(20, 4, dtype=torch.bool))
    _, _, _, grid, _ = decoder.init_state(memory)  # two parts of the LSTM, keys, grid, mask
    assert set(grid.materialize().unique().tolist()) == {0, 2}


def share_of_zeros(tensor):
    return float((tensor == 0).float().mean())


@pytest.mark.parametrize("context", CONTEXTS)
def test_features_have_dropout_in_training_in_whole_captions_and_in_single_steps(context):
    decoder, memory = decoder_of(context=context, dropout=0.5), memory_of(40)
    words, mask = captions(*[5] * 40)
    for training in (True, False):
        decoder.train(training)
        features = decoder(words, mask, decoder.init_state(memory)).hidden
        step, _ = decoder.step(words[:, 0], decoder.init_state(memory))
        for result in (features, step):
            assert share_of_zeros(result) == pytest.approx(0.5 if training else 0, abs=0.15)


def test_the_input_of_every_layer_has_dropout_once_in_training():
    decoder = decoder_of(layers=3, dropout=0.5).train()
    inputs = []
    for layer in decoder.rnn.layers:
        layer.register_forward_pre_hook(lambda layer, values: inputs.append(values[0]))
    words, mask = captions(*[5] * 40)
    decoder(words, mask, decoder.init_state(memory_of(40)))
    assert [share_of_zeros(values) for values in inputs] == pytest.approx([0.5] * 3, abs=0.1)
    embedded = decoder.embedding(words)
    kept = inputs[0] != 0
    torch.testing.assert_close(inputs[0][kept], 2 * embedded[kept])  # 1 / (1 - 0.5)


def flat(state):
    parts = (part.materialize() if isinstance(part, SharedRows) else part for part in state)
    return tuple(torch.cat([part.flatten() for part in parts]).tolist())


def test_masked_positions_have_no_attention_and_no_effect():
    decoder = decoder_of(context=ATTENTION)
    words, mask = captions(4, 2)
    memory = memory_of(2, positions=5)
    unmasked = torch.tensor([[True, False, True, True, True], [False, True, True, False, True]])
    changed = memory.grid.clone()
    changed[~unmasked] = 1000.0
    one, other = (
        decoder(words, mask, decoder.init_state(Memory(memory.summary, grid, unmasked)))
        for grid in (memory.grid, changed)
    )
    torch.testing.assert_close(one.hidden, other.hidden)
    unmasked_per_token = unmasked[torch.tensor([0, 0, 0, 0, 1, 1])]
    assert (one.weights[~unmasked_per_token] == 0).all()
    torch.testing.assert_close(one.weights.sum(dim=1), torch.ones(6))


def test_attention_weights_differ_between_steps():
    decoder = decoder_of(context=ATTENTION)
    words, mask = captions(3)
    weights = decoder(words, mask, decoder.init_state(memory_of(1))).weights  # (3, 4)
    assert not torch.allclose(weights[1], weights[2])


def test_attention_is_a_gated_mean_of_the_grid_weighted_by_the_softmax_of_additive_scores():
    attention, memory = decoder_of(context=ATTENTION).context, memory_of(2)
    hidden = torch.randn(2, 7, generator=torch.Generator().manual_seed(3))
    context, weights = attention.attend(hidden, attention.init(memory))
    for row, grid in enumerate(memory.grid):
        # Xu et al. 2015, equations 4, 5 and 13, one position at a time
        query = attention.query(hidden[row])
        scores = [attention.score(torch.tanh(query + attention.key(one))) for one in grid]
        total = sum(score.exp() for score in scores)
        shares = [score.exp() / total for score in scores]
        mean = sum(share * one for share, one in zip(shares, grid, strict=True))
        gate = 1 / (1 + (-attention.gate(hidden[row])).exp())
        torch.testing.assert_close(weights[row], torch.cat(shares))
        torch.testing.assert_close(context[row], gate * mean)


def test_the_hidden_state_of_the_top_layer_is_the_query_of_the_attention():
    decoder = decoder_of("gru", layers=2, context=ATTENTION)
    words, mask = captions(1)
    hidden, *grid = decoder.init_state(memory_of(1))
    bottom, top = (hidden + 9 * torch.eye(2)[layer].view(1, 2, 1) for layer in (0, 1))
    before, other_bottom, other_top = (
        decoder(words, mask, (state, *grid)).weights for state in (hidden, bottom, top)
    )
    torch.testing.assert_close(other_bottom, before)
    assert not torch.allclose(other_top, before)


def test_the_rnn_of_a_merge_model_reads_text_alone():
    decoder = decoder_of(context="merge")
    words, mask = captions(4)
    one, other = (
        decoder(words, mask, decoder.init_state(memory_of(1, seed))).hidden for seed in (1, 2)
    )
    torch.testing.assert_close(one[:, :7], other[:, :7])  # hidden states
    assert not torch.isclose(one[:, 7:], other[:, 7:]).any()  # the projected image


def test_selecting_rows_of_a_state_copies_no_grid():
    decoder = decoder_of(context=ATTENTION)
    state = decoder.init_state(memory_of(2))
    picked = select_state(state, torch.tensor([1, 1, 0]))
    shared = [
        (before, after)
        for before, after in zip(state, picked, strict=True)
        if isinstance(before, SharedRows)
    ]
    assert len(shared) == 3
    for before, after in shared:
        assert after.values is before.values
        torch.testing.assert_close(after.materialize(), before.materialize()[[1, 1, 0]])


def test_layers_beyond_the_first_add_their_input_to_their_output():
    decoder = decoder_of("gru", layers=2)
    for weight in decoder.rnn.layers[1].parameters():
        torch.nn.init.zeros_(weight)  # a GRU of zeros halves its state, which starts at zero here
    words, mask = captions(4)
    state = (torch.cat([torch.randn(1, 1, 7), torch.zeros(1, 1, 7)], dim=1),)
    first, _ = decoder.rnn.layers[0](decoder.embedding(words), state[0][:, 0].unsqueeze(0))
    torch.testing.assert_close(decoder(words, mask, state).hidden, first.squeeze(0))


def test_the_initial_state_is_one_affine_map_of_the_summary():
    decoder = decoder_of(layers=2)
    zero, one, two = (
        torch.cat(
            [
                part.flatten(1)
                for part in decoder.init_state(Memory(vector, vector.unsqueeze(1), None))
            ],
            dim=1,
        )
        for vector in (torch.zeros(1, 6), torch.ones(1, 6), 2 * torch.ones(1, 6))
    )
    torch.testing.assert_close(two - one, one - zero)


@pytest.mark.parametrize("context", CONTEXTS)
def test_the_context_declares_how_many_parts_it_adds_to_the_state(context):
    decoder = decoder_of("gru", context=context)
    state = decoder.init_state(memory_of(2))
    assert len(decoder.context.init(memory_of(2))) == decoder.context.state_parts
    assert len(state) == decoder.state_parts == 1 + decoder.context.state_parts


@pytest.mark.parametrize("context", CONTEXTS)
def test_tied_embeddings_are_one_matrix_with_every_context(context):
    tied = decoder_of(context=context, tie_embedding=True)
    assert tied.output.weight is tied.embedding.weight
    words, mask = captions(4, 2)
    state = tied.init_state(memory_of(2))
    features = tied(words, mask, state).hidden
    step, _ = tied.step(words[:, 0], state)
    assert features.shape == (6, 5)  # projected to the embedding size
    torch.testing.assert_close(step, features[[0, 4]])
    tied.output(features).logsumexp(dim=1).sum().backward()
    assert all(weight.grad.abs().sum() > 0 for weight in tied.parameters())


def test_the_projection_of_tied_embeddings_multiplies_hidden_state_and_context_vector():
    tied = decoder_of(context="every_step", tie_embedding=True)
    words, mask = captions(1)
    memory = memory_of(1)
    context = tied.context.project(memory.summary)  # (1, 3)
    projection, tied.output_projection = tied.output_projection, torch.nn.Identity()
    hidden = tied(words, mask, tied.init_state(memory)).hidden  # (1, 7 + 3)
    torch.testing.assert_close(hidden[:, 7:], context)
    tied.output_projection = projection
    projected = tied(words, mask, tied.init_state(memory)).hidden
    torch.testing.assert_close(projected, hidden @ projection.weight.T)


@pytest.mark.parametrize(("context", "embed_size"), [("none", 7), ("first_token", 5)])
def test_tied_embeddings_of_the_size_of_the_features_need_no_projection(context, embed_size):
    sizes = {"embed_size": embed_size, "hidden_size": embed_size}
    untied = decoder_of(context=context, **sizes)
    tied = decoder_of(context=context, tie_embedding=True, **sizes)
    untied.load_state_dict(tied.state_dict())  # it has the same parts
    words, mask = captions(4, 2)
    features = [
        decoder(words, mask, decoder.init_state(memory_of(2))).hidden for decoder in (tied, untied)
    ]
    torch.testing.assert_close(*features, rtol=0, atol=0)


@pytest.mark.parametrize("tie_embedding", [False, True])
@pytest.mark.parametrize("context", ["none", "every_step"])
def test_a_larger_vocabulary_keeps_the_weights_of_the_old_one(context, tie_embedding):
    small, large = (
        decoder_of(vocab_size=size, context=context, tie_embedding=tie_embedding)
        for size in (11, 14)
    )
    torch.nn.init.normal_(small.output.weight)
    large.copy_weights(small)
    words, mask = captions(4)
    memory = memory_of(1)
    before = small.output(small(words, mask, small.init_state(memory)).hidden)
    after = large.output(large(words, mask, large.init_state(memory)).hidden)
    torch.testing.assert_close(after[:, :11], before)


def test_tied_embeddings_start_small_so_that_the_first_logits_do():
    torch.manual_seed(0)
    sizes = {"vocab_size": 5_000, "memory_size": 4, "hidden_size": 8, "embed_size": 64}
    tied = RecurrentDecoder(tie_embedding=True, **sizes)
    assert tied.embedding.weight.std().item() == pytest.approx(64**-0.5, rel=0.02)
