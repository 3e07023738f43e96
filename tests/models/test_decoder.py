"""The decoder's laws: two paths that agree, no view of the future, no cost and no effect of padding."""

import pytest
import torch

from captioner.errors import UsageError
from captioner.models.context import (
    AdditiveAttention,
    EveryStep,
    FirstToken,
    InitialStateOnly,
    Merge,
)
from captioner.models.decoder import RecurrentDecoder
from captioner.types import Memory, Shared, select_state

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
    made = CONTEXTS[context]()
    return RecurrentDecoder(
        vocab_size=vocab_size, cell=cell, layers=layers, context=made, **sizes | more
    ).eval()


def memory_of(images, seed=1, places=4):
    grid = torch.randn(images, places, 6, generator=torch.Generator().manual_seed(seed))
    return Memory(grid.mean(dim=1), grid, torch.ones(images, places, dtype=torch.bool))


def captions(*lengths):
    """Random words, padded with 0, and their mask."""
    words = torch.randint(
        4, 11, (len(lengths), max(lengths)), generator=torch.Generator().manual_seed(2)
    )
    mask = torch.arange(max(lengths)) < torch.tensor(lengths).unsqueeze(1)
    return words * mask, mask


@pytest.mark.parametrize("context", CONTEXTS)
@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("layers", [1, 3])
def test_reading_a_caption_at_once_equals_reading_it_word_by_word(context, cell, layers):
    decoder = decoder_of(cell, layers, context=context)
    words, mask = captions(5, 5, 5)
    state = decoder.init_state(memory_of(3))
    at_once = decoder(words, mask, state).hidden.view(3, 5, -1)
    for place in range(5):
        hidden, state = decoder.step(words[:, place], state)
        torch.testing.assert_close(hidden, at_once[:, place])


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
def test_vectors_stand_in_the_order_of_the_mask_and_padding_changes_none(context, cell):
    decoder = decoder_of(cell, context=context)
    words, mask = captions(2, 5, 3)
    state = decoder.init_state(memory_of(3))
    together = decoder(words, mask, state).hidden
    alone = [
        decoder(
            words[row : row + 1, :length],
            mask[row : row + 1, :length],
            tuple(part[row : row + 1] for part in state),
        ).hidden
        for row, length in enumerate([2, 5, 3])
    ]
    torch.testing.assert_close(together, torch.cat(alone))


@pytest.mark.parametrize("context", CONTEXTS)
def test_the_past_does_not_see_the_future(context):
    decoder = decoder_of(layers=2, context=context)
    words, mask = captions(6)
    state = decoder.init_state(memory_of(1))
    changed = words.clone()
    changed[0, 3] = 4 if words[0, 3] != 4 else 5
    before, after = decoder(words, mask, state).hidden, decoder(changed, mask, state).hidden
    torch.testing.assert_close(before[:3], after[:3])
    assert not torch.allclose(before[3:], after[3:])


@pytest.mark.parametrize("context", CONTEXTS)
def test_the_image_matters_from_the_first_word_on(context):
    decoder = decoder_of(context=context)
    words, mask = captions(4)
    one, other = (
        decoder(words, mask, decoder.init_state(memory_of(1, seed))).hidden for seed in (1, 2)
    )
    assert not torch.isclose(one, other).all(dim=1).any()


@pytest.mark.parametrize("context", CONTEXTS)
def test_everything_in_a_context_learns(context):
    decoder = decoder_of(context=context)
    words, mask = captions(4, 2)
    decoder.output(decoder(words, mask, decoder.init_state(memory_of(2))).hidden).logsumexp(
        dim=1
    ).sum().backward()
    assert all(weight.grad.abs().sum() > 0 for weight in decoder.parameters())


@pytest.mark.parametrize("context", CONTEXTS)
def test_image_dropout_hides_some_of_what_was_seen_but_only_in_training(context):
    decoder, memory = decoder_of(context=context, image_dropout=0.5), memory_of(2)
    plain = flat(decoder_of(context=context).init_state(memory))
    assert flat(decoder.init_state(memory)) == plain
    decoder.train()
    assert len({flat(decoder.init_state(memory)) for _ in range(3)} | {plain}) == 4


def flat(state):
    parts = (part.rows() if isinstance(part, Shared) else part for part in state)
    return tuple(torch.cat([part.flatten() for part in parts]).tolist())


def test_attention_sees_no_masked_place():
    decoder = decoder_of(context=ATTENTION)
    words, mask = captions(4, 2)
    memory = memory_of(2, places=5)
    hidden_place = torch.tensor([[True, False, True, True, True], [False, True, True, False, True]])
    changed = memory.grid.clone()
    changed[~hidden_place] = 1000.0
    one, other = (
        decoder(words, mask, decoder.init_state(Memory(memory.summary, grid, hidden_place)))
        for grid in (memory.grid, changed)
    )
    torch.testing.assert_close(one.hidden, other.hidden)
    of_word = hidden_place[torch.tensor([0, 0, 0, 0, 1, 1])]
    assert (one.weights[~of_word] == 0).all()
    torch.testing.assert_close(one.weights.sum(dim=1), torch.ones(6))


def test_attention_looks_elsewhere_for_another_word():
    decoder = decoder_of(context=ATTENTION)
    words, mask = captions(3)
    weights = decoder(words, mask, decoder.init_state(memory_of(1))).weights  # (3, 4)
    assert not torch.allclose(weights[1], weights[2])


def test_picking_rows_of_a_state_copies_no_grid():
    decoder = decoder_of(context=ATTENTION)
    state = decoder.init_state(memory_of(2))
    picked = select_state(state, torch.tensor([1, 1, 0]))
    shared = [
        (before, after)
        for before, after in zip(state, picked, strict=True)
        if isinstance(before, Shared)
    ]
    assert len(shared) == 3
    for before, after in shared:
        assert after.values is before.values
        torch.testing.assert_close(after.rows(), before.rows()[[1, 1, 0]])


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


def test_tied_embeddings_are_one_matrix_and_need_equal_sizes():
    tied = decoder_of(embed_size=7, tie_embedding=True)
    assert tied.output.weight is tied.embedding.weight
    with pytest.raises(UsageError, match=r"embed_size \(5\) to what words are said from \(7\)"):
        decoder_of(tie_embedding=True)


def test_a_larger_vocabulary_takes_over_the_old_words_and_everything_else():
    small, large = decoder_of(vocab_size=11), decoder_of(vocab_size=14)
    torch.nn.init.normal_(small.output.weight)
    large.take_over(small)
    words, mask = captions(4)
    memory = memory_of(1)
    before = small.output(small(words, mask, small.init_state(memory)).hidden)
    after = large.output(large(words, mask, large.init_state(memory)).hidden)
    torch.testing.assert_close(after[:, :11], before)
