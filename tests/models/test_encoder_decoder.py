"""Ensemble: the mean of probabilities, and a state that carries everything a step needs."""

import pytest
import torch

from captioner.models.context import AdditiveAttention, EveryStep, InitialStateOnly
from captioner.models.decoder import RecurrentDecoder
from captioner.models.encoder import ImageEncoder
from captioner.models.encoder_decoder import EncoderDecoder, Ensemble
from captioner.types import Batch, select_state

IMAGES = torch.randint(
    0, 256, (2, 3, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
)


def model_of(cell, context):
    decoder = RecurrentDecoder(
        vocab_size=9, memory_size=256, embed_size=5, hidden_size=7, cell=cell, context=context
    )
    return EncoderDecoder(ImageEncoder(trunk="small_cnn"), decoder).eval()


@pytest.fixture
def models():
    """Models whose states have 2 + 1, 1 + 3 and 1 + 0 parts."""
    torch.manual_seed(0)
    return [
        model_of("lstm", EveryStep(memory_size=256, size=3)),
        model_of("gru", AdditiveAttention(memory_size=256, hidden_size=7, size=4)),
        model_of("rnn", InitialStateOnly()),
    ]


def mean_of(log_probs):
    return torch.stack(log_probs).exp().mean(dim=0).log()


def test_an_ensemble_averages_probabilities_at_every_step(models):
    ensemble = Ensemble(models)
    state = ensemble.init_state(IMAGES)
    states = [model.init_state(IMAGES) for model in models]
    assert len(state) == ensemble.state_parts == 3 + 4 + 1
    for token_ids in torch.tensor([[1, 1], [4, 5], [6, 7]]):
        log_probs, state = ensemble.step(token_ids, state)
        steps = [model.step(token_ids, own) for model, own in zip(models, states, strict=True)]
        states = [new for _, new in steps]
        torch.testing.assert_close(log_probs, mean_of([each for each, _ in steps]))


def test_an_ensemble_averages_probabilities_of_whole_captions(models):
    tokens = torch.tensor([[1, 4, 5, 2], [1, 6, 2, 0], [1, 7, 2, 0]])
    source_index = torch.tensor([0, 0, 1])
    batch = Batch(IMAGES, tokens, tokens > 0, source_index, torch.arange(2))
    ensemble = Ensemble(models)
    log_probs = ensemble.log_probs(batch, ensemble.init_state(IMAGES))
    expected = [model.log_probs(batch, model.init_state(IMAGES)) for model in models]
    assert log_probs.shape == (3 + 2 + 2,)
    torch.testing.assert_close(log_probs, mean_of(expected))


def test_a_state_of_an_ensemble_does_not_depend_on_the_calls_before(models):
    token_ids = torch.tensor([4, 5])
    expected, _ = Ensemble(models).step(token_ids, Ensemble(models).init_state(IMAGES))
    ensemble = Ensemble(models)
    state = ensemble.init_state(IMAGES)
    ensemble.init_state(IMAGES[:1])
    swapped, _ = ensemble.step(token_ids.flip(0), select_state(state, torch.tensor([1, 0])))
    torch.testing.assert_close(swapped.flip(0), expected)
