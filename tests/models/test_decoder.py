"""The decoder's laws: two paths that agree, no view of the future, no cost and no effect of padding."""

import pytest
import torch

from captioner.errors import UsageError
from captioner.models.decoder import RecurrentDecoder
from captioner.types import Memory

CELLS = ["lstm", "gru", "rnn"]


def decoder_of(cell="lstm", layers=1, vocab_size=11, **more):
    torch.manual_seed(0)
    sizes = {"memory_size": 6, "embed_size": 5, "hidden_size": 7}
    return RecurrentDecoder(vocab_size=vocab_size, cell=cell, layers=layers, **sizes | more).eval()


def memory_of(images, seed=1):
    summary = torch.randn(images, 6, generator=torch.Generator().manual_seed(seed))
    return Memory(summary, summary.unsqueeze(1), torch.ones(images, 1, dtype=torch.bool))


def captions(*lengths):
    """Random words, padded with 0, and their mask."""
    words = torch.randint(4, 11, (len(lengths), max(lengths)), generator=torch.Generator().manual_seed(2))
    mask = torch.arange(max(lengths)) < torch.tensor(lengths).unsqueeze(1)
    return words * mask, mask


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("layers", [1, 2])
def test_reading_a_caption_at_once_equals_reading_it_word_by_word(cell, layers):
    decoder = decoder_of(cell, layers)
    words, mask = captions(5, 5, 5)
    state = decoder.start(memory_of(3))
    at_once = decoder(words, mask, state).view(3, 5, 7)
    for place in range(5):
        hidden, state = decoder.step(words[:, place], state)
        torch.testing.assert_close(hidden, at_once[:, place])


@pytest.mark.parametrize("cell", CELLS)
def test_every_tensor_of_the_state_is_batch_first(cell):
    decoder = decoder_of(cell, layers=2)
    state = decoder.start(memory_of(3))
    _, new = decoder.step(torch.tensor([4, 5, 6]), state)
    assert [part.shape for part in state] == [part.shape for part in new] == [(3, 2, 7)] * (2 if cell == "lstm" else 1)


@pytest.mark.parametrize("cell", CELLS)
def test_hidden_vectors_stand_in_the_order_of_the_mask_and_padding_changes_none(cell):
    decoder = decoder_of(cell)
    words, mask = captions(2, 5, 3)
    state = decoder.start(memory_of(3))
    together = decoder(words, mask, state)
    alone = [
        decoder(
            words[row : row + 1, :length], mask[row : row + 1, :length], tuple(part[row : row + 1] for part in state)
        )
        for row, length in enumerate([2, 5, 3])
    ]
    torch.testing.assert_close(together, torch.cat(alone))


def test_the_past_does_not_see_the_future():
    decoder = decoder_of(layers=2)
    words, mask = captions(6)
    state = decoder.start(memory_of(1))
    changed = words.clone()
    changed[0, 3] = 4 if words[0, 3] != 4 else 5
    before, after = decoder(words, mask, state), decoder(changed, mask, state)
    torch.testing.assert_close(before[:3], after[:3])
    assert not torch.allclose(before[3:], after[3:])


def test_the_image_matters_from_the_first_word_on():
    decoder = decoder_of()
    words, mask = captions(4)
    one, other = (decoder(words, mask, decoder.start(memory_of(1, seed))) for seed in (1, 2))
    assert not torch.allclose(one, other)


def test_the_initial_state_is_one_affine_map_of_the_summary():
    decoder = decoder_of(layers=2)
    zero, one, two = (
        torch.cat([part.flatten(1) for part in decoder.start(Memory(vector, vector.unsqueeze(1), None))], dim=1)
        for vector in (torch.zeros(1, 6), torch.ones(1, 6), 2 * torch.ones(1, 6))
    )
    torch.testing.assert_close(two - one, one - zero)


def test_tied_embeddings_are_one_matrix_and_need_equal_sizes():
    tied = decoder_of(embed_size=7, tie_embedding=True)
    assert tied.output.weight is tied.embedding.weight
    with pytest.raises(UsageError, match=r"embed_size \(5\) to decoder.hidden_size \(7\)"):
        decoder_of(tie_embedding=True)


def test_a_larger_vocabulary_takes_over_the_old_words_and_everything_else():
    small, large = decoder_of(vocab_size=11), decoder_of(vocab_size=14)
    torch.nn.init.normal_(small.output.weight)
    large.take_over(small)
    words, mask = captions(4)
    memory = memory_of(1)
    before = small.output(small(words, mask, small.start(memory)))
    after = large.output(large(words, mask, large.start(memory)))
    torch.testing.assert_close(after[:, :11], before)
