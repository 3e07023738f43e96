"""One training step: clipping, label smoothing, and the augmentation that a phase asks for."""

import pytest
import torch
from torch import nn

from captioner.config.schema import DecoderConfig, ImageEncoderConfig, ModelConfig
from captioner.config.training import PhaseConfig
from captioner.data.batching import EpochBatchSampler, collate
from captioner.data.datasets import load_examples
from captioner.data.splits import ExampleSet, Splits
from captioner.distributed import Ranks
from captioner.models.build import build_model
from captioner.text.tokenizer import BOS, EOS, Vocabulary, tokenize
from captioner.training.loaders import ImageLoaders
from captioner.training.loop import train_step
from captioner.training.losses import LossSum
from captioner.training.objectives import ObjectiveOutput, TeacherForcing

ALONE = Ranks(0, 1, torch.device("cpu"))
BATCH = collate([(torch.zeros(3, 64, 64, dtype=torch.uint8), [[BOS, 4, 5, EOS]], 0)])


class Slope(nn.Module):
    """An objective whose gradient is known: (3, 4) for its two weights, of norm 5."""

    def __init__(self):
        super().__init__()
        self.weights = nn.Parameter(torch.zeros(2))

    def forward(self, batch, progress):
        total = self.weights @ torch.tensor([3.0, 4.0])
        return ObjectiveOutput(LossSum(total, torch.tensor(1)))


@pytest.mark.parametrize(("clip", "scale"), [(10.0, 1.0), (5.0, 1.0), (1.0, 1 / 5)])
def test_a_gradient_longer_than_the_clip_is_scaled_to_it_and_a_shorter_one_is_not(clip, scale):
    slope = Slope()
    optimizer = torch.optim.SGD(slope.parameters(), lr=1.0)
    train_step(
        slope,
        optimizer,
        [BATCH],
        count=lambda batch: torch.tensor(1),
        ranks=ALONE,
        precision="fp32",
        gradient_clip=clip,
    )
    expected = [-3 * scale, -4 * scale]  # one step of SGD at a rate of 1
    assert slope.weights.tolist() == pytest.approx(expected, rel=1e-5)


def test_label_smoothing_spreads_its_share_over_the_vocabulary_in_training_only():
    torch.manual_seed(0)
    encoder = ImageEncoderConfig(trunk="small_cnn", weights="none", image_size=64)
    decoder = DecoderConfig(embed_size=4, hidden_size=4, dropout=0.0)
    model = build_model(ModelConfig(encoder=encoder, decoder=decoder), vocab_size=8)
    objective = TeacherForcing(model, label_smoothing=0.25)
    model.encoder.eval()
    hidden = model.decode(BATCH, model.init_state(BATCH.source)).hidden
    log_probs = model.decoder.output(hidden).log_softmax(dim=1)
    true = -log_probs.gather(1, BATCH.targets[BATCH.target_mask].unsqueeze(1)).sum()
    uniform = -log_probs.mean(dim=1).sum()
    objective.train()
    model.encoder.eval()
    assert objective(BATCH).loss.total.item() == pytest.approx(
        (0.75 * true + 0.25 * uniform).item(), rel=1e-5
    )
    objective.eval()
    assert objective(BATCH).loss.total.item() == pytest.approx(true.item(), rel=1e-5)


@pytest.fixture
def images_of(tiny):
    """The images or features that a phase trains on in an epoch, in the order of the data set."""

    def make(phase, *, epoch, cache_features):
        config = tiny(training={"cache_features": cache_features})
        source = config.data.train[0]
        examples = load_examples(source.annotations, source.images)
        captions = [tokenize(caption) for example in examples for caption in example.captions]
        vocabulary = Vocabulary.from_captions(captions, min_count=1)
        model = build_model(config, vocab_size=len(vocabulary))
        source = ExampleSet("shapes", examples)
        splits = Splits(train=[source], dev=[source])
        loaders = ImageLoaders(config, model.encoder, vocabulary, splits, ranks=ALONE)
        sampler = EpochBatchSampler(len(examples), batch_size=len(examples), seed=0)
        sampler.epoch = epoch
        [batch] = loaders.train_loader(phase, sampler)
        return batch.source[batch.example_index.argsort()]

    return make


@pytest.mark.parametrize("cache_features", [False, True])
def test_a_phase_with_augmentation_trains_on_crops_that_change_each_epoch(
    images_of, cache_features
):
    plain, augmented = PhaseConfig(), PhaseConfig(augmentation="random_crop")
    whole = images_of(plain, epoch=0, cache_features=False)
    assert torch.equal(whole, images_of(plain, epoch=1, cache_features=False))
    first, second = (
        images_of(augmented, epoch=epoch, cache_features=cache_features) for epoch in (0, 1)
    )
    for other in (whole, second):
        changed = (first != other).flatten(1).any(dim=1)
        assert changed.float().mean() > 0.9


def test_a_phase_without_augmentation_trains_on_cached_features(images_of):
    features = images_of(PhaseConfig(), epoch=0, cache_features=True)
    assert features.shape[1:] == (1, 256)  # the mean over the grid of small_cnn
