"""Training objectives: each works with every context and cell, and computes what its paper says."""

import random
from pathlib import Path
from typing import get_args

import pytest
import torch

from captioner.config.schema import (
    ContextName,
    DecoderConfig,
    DecodingConfig,
    ImageEncoderConfig,
    ModelConfig,
    ObjectiveName,
    ScheduleName,
)
from captioner.config.training import PhaseConfig, SelfCriticalConfig, TrainingConfig
from captioner.data.batching import collate
from captioner.data.datasets import Example
from captioner.decoding.search import build_search
from captioner.metrics.scorer import Scorer
from captioner.models.build import build_model
from captioner.text.tokenizer import BOS, EOS, UNK, Vocabulary, detokenize, tokenize
from captioner.training.losses import doubly_stochastic_penalty
from captioner.training.objectives import (
    ScheduledSampling,
    TeacherForcing,
    build_schedule,
)
from captioner.training.self_critical import SelfCritical
from captioner.training.trainer import build_objective
from captioner.training.validation import free_running_loss

CHANNELS = 256  # of the trunk small_cnn
CELLS = ["lstm", "gru", "rnn"]
THINGS = ["dog", "cat", "bird", "horse", "boat"]
PLACES = ["grass", "water", "snow", "sand", "street"]
SAID = [
    "a {} on the {}",
    "a {} is on the {}",
    "there is a {} on some {}",
    "one {} and the {} below",
    "the {} seen from the {}",
]


def world(images, seed):
    """Return noisy features (images, 3, C) of things at places, and five captions of each image."""
    rng, generator = random.Random(seed), torch.Generator().manual_seed(seed)
    features, examples = [], []
    for number in range(images):
        thing, place = rng.randrange(5), rng.randrange(5)
        seen = torch.zeros(3, CHANNELS)
        seen[0, thing] = seen[1, 5 + place] = 2.0
        features.append(seen + 0.4 * torch.randn(3, CHANNELS, generator=generator))
        captions = tuple(
            said.format(THINGS[thing], PLACES[place]) for said in rng.choices(SAID, k=5)
        )
        examples.append(Example(number, Path(f"{number}.jpg"), captions))
    return torch.stack(features), examples


def model_of(vocabulary, context="none", cell="gru", layers=1, size=32):
    torch.manual_seed(0)
    decoder = DecoderConfig(
        context=context,
        cell=cell,
        layers=layers,
        embed_size=size,
        hidden_size=size,
        attention_size=8,
        dropout=0.1,
    )
    encoder = ImageEncoderConfig(trunk="small_cnn", weights="none")
    return build_model(ModelConfig(encoder=encoder, decoder=decoder), vocab_size=len(vocabulary))


@pytest.fixture(scope="module")
def learners():
    """Twenty-five images with their captions, and the vocabulary of these."""
    features, examples = world(25, seed=1)
    vocabulary = Vocabulary.from_captions(
        [tokenize(c) for e in examples for c in e.captions], min_count=1
    )
    return features, examples, vocabulary


def batch_of(features, examples, vocabulary):
    captions = [
        [vocabulary.encode(tokenize(caption), 20) for caption in example.captions]
        for example in examples
    ]
    return collate(
        [
            (seen, said, number)
            for number, (seen, said) in enumerate(zip(features, captions, strict=True))
        ]
    )


def up_to(length):
    """The limit of the captions of each source of a batch."""
    return lambda source: torch.full((len(source),), length)


def whole(weights, captions):
    """A mask of sources without padding, one for each caption."""
    return torch.ones((len(captions), weights.shape[1]), dtype=torch.bool)


def teach(objective, batch, steps, rate=1e-2):
    optimizer = torch.optim.Adam(objective.parameters(), lr=rate)
    objective.train()
    for step in range(steps):
        optimizer.zero_grad()
        output = objective(batch, step / steps)
        loss = output.loss
        assert int(loss.count) == int(objective.count(batch))
        (loss.total / loss.count).backward()
        optimizer.step()
    return output


def cider_d(model, features, examples, vocabulary):
    model.eval()
    with torch.inference_mode():
        search = build_search(model.step, DecodingConfig(beam=1, max_length=10), vocabulary)
        found = search(model.init_state(features), ())
    captions = {
        example.image_id: detokenize(vocabulary.decode(best[0].token_ids))
        for example, best in zip(examples, found, strict=True)
    }
    references = {example.image_id: example.captions for example in examples}
    return Scorer(references).score(captions).metrics["CIDEr"]


def test_scheduled_sampling_at_0_is_teacher_forcing(learners):
    features, examples, vocabulary = learners
    batch = batch_of(features, examples, vocabulary)
    losses = []
    for make in (TeacherForcing, lambda model: ScheduledSampling(model, lambda p: 0.0)):
        model = model_of(vocabulary)
        torch.manual_seed(5)
        losses.append(teach(make(model), batch, steps=3).loss.mean)
    assert losses[0] == losses[1]


def test_scheduled_sampling_at_1_reads_only_generated_tokens(learners):
    features, examples, vocabulary = learners
    model = model_of(vocabulary).eval()
    batch = batch_of(features, examples, vocabulary)
    alone = ScheduledSampling(model, lambda p: 1.0).eval()
    state = tuple(part[batch.source_index] for part in model.init_state(batch.source))
    inputs = alone.decoder_inputs(batch, state, progress=0.0)
    one_image = inputs[batch.source_index == 3]
    assert (one_image == one_image[0]).all(), "the inputs depend on the image only"
    torch.testing.assert_close(
        alone(batch).loss.total,
        free_running_loss(model, batch, model.init_state(batch.source)).total,
    )


def test_the_share_of_generated_tokens_follows_the_schedule(learners):
    features, examples, vocabulary = learners
    model = model_of(vocabulary)
    batch = batch_of(features, examples, vocabulary)
    state = tuple(part[batch.source_index] for part in model.init_state(batch.source))
    with torch.no_grad():
        model.decoder.output.bias[:] = 0
        model.decoder.output.bias[vocabulary.id_of("bird")] = (
            100  # the model always predicts this word
        )
    true = batch.inputs[:, 1:][batch.mask[:, 1:-1]]
    torch.manual_seed(0)
    objective = ScheduledSampling(model, lambda p: 0.3)
    inputs = objective.decoder_inputs(batch, state, progress=0.0)[:, 1:][batch.mask[:, 1:-1]]
    others = true != vocabulary.id_of("bird")
    assert (inputs != true)[others].float().mean() == pytest.approx(0.3, abs=0.05)


@pytest.mark.parametrize("name", get_args(ScheduleName))
@pytest.mark.parametrize("share", [0.25, 1.0])
def test_schedules_rise_from_0_to_the_given_share(name, share):
    schedule = build_schedule(name, share)
    values = [schedule(step / 20) for step in range(21)]
    assert values[0] == pytest.approx(0)
    assert values[-1] == pytest.approx(share)
    assert values == sorted(values)


def test_schedules_differ_in_when_they_rise():
    names = ("exponential", "linear", "inverse_sigmoid")
    early, even, late = (build_schedule(name, 0.9)(0.25) for name in names)
    assert early > even > late
    assert set(names) == set(get_args(ScheduleName))


def test_word_dropout_replaces_tokens_but_never_bos_and_only_in_training(learners):
    features, examples, vocabulary = learners
    model, batch = model_of(vocabulary), batch_of(features, examples, vocabulary)
    read = []
    forward = model.decoder.forward
    model.decoder.forward = lambda inputs, mask, state: (
        read.append(inputs) or forward(inputs, mask, state)
    )
    objective = TeacherForcing(model, word_dropout=0.5)
    objective.train()(batch)
    objective.eval()(batch)
    hidden = read[0] == UNK
    assert hidden[:, 1:].float().mean() == pytest.approx(0.5, abs=0.05)
    assert (read[0][:, 0] == BOS).all()
    assert torch.equal(read[1], batch.inputs)


def test_the_doubly_stochastic_penalty_is_the_squared_difference_of_total_attention_from_1():
    weights = torch.tensor(
        [[1.0, 0.0], [1.0, 0.0], [0.5, 0.5]]
    )  # two words of a caption, and one of another
    mask = torch.tensor([[True, True], [True, False]])
    # first caption: places were given 2 and 0, second one 0.5 and 0.5
    assert float(doubly_stochastic_penalty(weights, mask, whole(weights, mask))) == pytest.approx(
        1 + 1 + 0.25 + 0.25
    )


def test_padding_of_the_source_has_no_attention_penalty():
    weights = torch.tensor([[1.0, 0.0], [1.0, 0.0]])  # of two words; the second place is padding
    mask = torch.tensor([[True, True]])
    seen = torch.tensor([[True, False]])
    assert float(doubly_stochastic_penalty(weights, mask, seen)) == pytest.approx(1)


def test_the_attention_penalty_spreads_attention_over_the_positions(learners):
    features, examples, vocabulary = learners
    batch = batch_of(features, examples, vocabulary)
    left = []
    for penalty in (0.0, 10.0):
        model = model_of(vocabulary, "attention")
        teach(TeacherForcing(model, attention_penalty=penalty), batch, steps=30)
        with torch.no_grad():
            output = model.eval().decode(batch, model.init_state(batch.source))
        left.append(
            float(
                doubly_stochastic_penalty(
                    output.weights, batch.target_mask, whole(output.weights, batch.targets)
                )
            )
        )
    assert left[1] < 0.8 * left[0]


@pytest.mark.parametrize(
    ("candidates", "baseline"), [("beam", "mean"), ("sample", "mean"), ("sample", "greedy")]
)
def test_self_critical_gradients_are_the_advantage_times_the_gradient_of_the_log_probability(
    candidates, baseline, learners
):
    """Computed without the code of the objective, from the captions that its reward receives."""
    features, examples, vocabulary = learners
    model = model_of(vocabulary)
    model.decoder.dropout.p = 0.0
    batch = batch_of(features[:4], examples[:4], vocabulary)
    asked = []

    def reward_of(image, words):
        return float((1 + image) * len(set(words)))

    def reward(images, captions):
        asked.append([list(words) for words in captions])
        return torch.tensor(
            [reward_of(image, words) for image, words in zip(images, captions, strict=True)]
        )

    torch.manual_seed(1)
    options = {"candidates": candidates, "baseline": baseline, "samples": 3, "limits": up_to(6)}
    SelfCritical(model.train(), reward, **options)(batch).loss.total.backward()
    got = model.decoder.output.weight.grad.clone()
    model.zero_grad()
    found, *greedy = asked
    loss = 0
    for number, words in enumerate(found):
        image, sample = divmod(number, 3)
        others = [
            reward_of(image, found[3 * image + other]) for other in range(3) if other != sample
        ]
        bar = sum(others) / 2 if baseline == "mean" else reward_of(image, greedy[0][image])
        alone = collate([(features[image], [[BOS, *words, EOS]], 0)])
        log_prob = model.log_probs(alone, model.init_state(alone.source)).sum()
        loss = loss - (reward_of(image, words) - bar) * log_prob
    loss.backward()
    torch.testing.assert_close(got, model.decoder.output.weight.grad, rtol=1e-4, atol=1e-5)


def test_self_critical_captions_are_generated_without_dropout_and_learned_with_it(learners):
    features, examples, vocabulary = learners
    model = model_of(vocabulary).train()
    model.decoder.dropout.p = 0.5
    batch = batch_of(features[:4], examples[:4], vocabulary)
    generated = []

    def reward(images, captions):
        generated.append(captions)
        return torch.arange(float(len(captions)))

    objective = SelfCritical(model, reward, candidates="beam", samples=3, limits=up_to(6))
    losses = {objective(batch).loss.total.item() for _ in range(5)}
    assert all(captions == generated[0] for captions in generated)
    assert len(losses) == 5
    assert model.decoder.training


def test_the_mean_of_the_other_samples_needs_at_least_two():
    with pytest.raises(ValueError, match="set samples to 2 or more"):
        SelfCriticalConfig(samples=1)
    assert SelfCriticalConfig(samples=1, baseline="greedy").samples == 1


@pytest.mark.parametrize("candidates", ["beam", "sample"])
def test_self_critical_training_raises_cider_d_on_images_it_has_not_seen(candidates, learners):
    _, _, vocabulary = learners
    features, examples = world(100, seed=3)
    dev_features, dev = world(200, seed=2)
    model = model_of(vocabulary, size=64)
    batch = batch_of(features, examples, vocabulary)
    teach(TeacherForcing(model), batch, steps=25)
    before = cider_d(model, dev_features, dev, vocabulary)
    phase = PhaseConfig(
        objective="self_critical", self_critical=SelfCriticalConfig(candidates=candidates)
    )
    objective = build_objective(
        phase, TrainingConfig(), model, vocabulary, examples, limits=up_to(10)
    )
    output = teach(objective, batch, steps=75, rate=5e-3)
    after = cider_d(model, dev_features, dev, vocabulary)
    assert after > 1.02 * before
    assert output.metrics["reward"] > 0


@pytest.mark.parametrize("objective", get_args(ObjectiveName))
@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("context", get_args(ContextName))
def test_every_combination_trains_for_ten_steps_and_captions(context, cell, objective, learners):
    features, examples, vocabulary = learners
    model = model_of(vocabulary, context, cell, layers=2)
    phase = PhaseConfig(objective=objective)
    before = [weight.clone() for weight in model.decoder.parameters()]
    made = build_objective(phase, TrainingConfig(), model, vocabulary, examples, limits=up_to(10))
    assert torch.isfinite(
        torch.tensor(teach(made, batch_of(features, examples, vocabulary), steps=10).loss.mean)
    )
    assert all(
        not torch.equal(old, new)
        for old, new in zip(before, model.decoder.parameters(), strict=True)
    )
    for beam in (1, 3):
        search = build_search(
            model.eval().step, DecodingConfig(beam=beam, max_length=10), vocabulary
        )
        with torch.inference_mode():
            assert len(search(model.init_state(features), ())) == 25
