"""Features for captions without images: the regression, and a random pair's residual."""

import random

import numpy as np
import pytest
import torch

from captioner.text.tokenizer import BOS, EOS, UNK
from captioner.training.synthetic import RIDGE, SyntheticFeatures, bag_of_words, fit

V, C, P = 12, 5, 4  # words, channels, positions


def random_captions(count, most, seed=0):
    """Return captions of words 4 to V - 1 for each image; word V never occurs."""
    rng = random.Random(seed)
    return [
        [
            [BOS, *rng.choices(range(4, V), k=rng.randint(1, 6)), UNK, EOS]
            for _ in range(rng.randint(1, most))
        ]
        for _ in range(count)
    ]


CAPTIONS = random_captions(40, 4)
GRIDS = torch.from_numpy(np.random.default_rng(0).normal(size=(40, P, C))).half()


def by_least_squares(captions, summaries):
    """Return W (V + 1, C) by least squares on the centred pairs, augmented by sqrt(lambda) I."""
    pairs = [
        (np.isin(np.arange(V + 1), [word for word in caption if word >= 4]), summaries[image])
        for image, of_image in enumerate(captions)
        for caption in of_image
    ]
    x = np.array([bag for bag, _ in pairs], dtype=float)
    y = np.array([summary for _, summary in pairs], dtype=float)
    x, y = x - x.mean(axis=0), y - y.mean(axis=0)
    augmented = np.vstack([x, np.sqrt(20.0) * np.eye(V + 1)])
    return np.linalg.lstsq(augmented, np.vstack([y, np.zeros((V + 1, C))]), rcond=None)[0]


def features_of(*text):
    captions = [*CAPTIONS, *([list(caption)] for caption in text)]
    return SyntheticFeatures(lambda index, rng: GRIDS[index], captions, num_images=len(CAPTIONS))


def test_a_bag_has_each_word_once_and_no_special_token():
    assert bag_of_words([BOS, 7, 5, 7, UNK, EOS]) == [5, 7]


def test_the_regression_equals_least_squares_on_the_augmented_system():
    assert RIDGE == 20
    summaries = GRIDS.float().mean(dim=1).numpy()
    regression = fit(CAPTIONS, summaries)
    expected = by_least_squares(CAPTIONS, summaries)
    assert sorted(regression.words) == list(range(4, V))
    for word, row in regression.words.items():
        assert regression.weights[row] == pytest.approx(expected[word], abs=1e-6)
    caption = [BOS, 5, 9, 5, EOS]
    assert regression.predict(caption) == pytest.approx(expected[5] + expected[9], abs=1e-6)


def test_a_word_that_no_pair_has_adds_nothing():
    regression = fit(CAPTIONS, GRIDS.float().mean(dim=1).numpy())
    assert regression.predict([BOS, V, UNK, EOS]).tolist() == [0] * C
    assert regression.predict([BOS, 5, V, EOS]).tolist() == regression.predict([5]).tolist()


def test_a_caption_gets_the_prediction_of_its_words_and_the_residual_of_a_pair():
    caption = [BOS, 4, 8, EOS]
    features = features_of(caption)
    summaries = GRIDS.float().mean(dim=1).numpy()
    weights = by_least_squares(CAPTIONS, summaries)
    pairs = [(image, one) for image, of_image in enumerate(CAPTIONS) for one in of_image]
    drawn = set()
    for seed in range(200):
        image, paired = pairs[random.Random(seed).randrange(len(pairs))]
        drawn.add(image)
        prediction = weights[4] + weights[8]
        residual = GRIDS[image].float().numpy() - weights[bag_of_words(paired)].sum(axis=0)
        made = features(len(CAPTIONS), random.Random(seed))
        assert made.dtype == GRIDS.dtype
        assert made.shape == (P, C)
        assert made.float().numpy() == pytest.approx(prediction + residual, abs=5e-3)
    assert len(drawn) > 35


def test_the_grid_of_attention_varies_as_that_of_a_real_image():
    made = features_of([BOS, 4, 8, EOS])(len(CAPTIONS), random.Random(3)).float()
    centred = made - made.mean(dim=0)
    real = GRIDS.float() - GRIDS.float().mean(dim=1, keepdim=True)
    distances = (real - centred).abs().amax(dim=(1, 2))
    assert distances.min() < 5e-3


def test_images_keep_their_features_and_a_seed_gives_the_same_made_up_ones():
    features = features_of([BOS, 4, EOS])
    assert torch.equal(features(3, random.Random(0)), GRIDS[3])
    one, same, other = (features(len(CAPTIONS), random.Random(seed)) for seed in (0, 0, 1))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
