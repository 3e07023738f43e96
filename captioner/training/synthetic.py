"""Features for captions without images: ridge regression from words to features, plus a residual.

Let x(c) in {0, 1}^V be the bag of words of a caption c, and y the summary (C,) of an image: the
mean of its grid. Ridge regression over all pairs of an image and a caption of the train images,
with centred x and y, so that the intercept b has no penalty, gives

    W = (X^T X + lambda I)^-1 X^T Y        lambda = 20, X (pairs, V), Y (pairs, C)

A caption c without an image gets the prediction for its words plus the residual of a random pair
(image j with grid f_j, caption c_j) at every position of the grid:

    g(c) = W^T x(c) + b + (f_j - W^T x(c_j) - b) = f_j + W^T (x(c) - x(c_j))

The residual is what words do not tell about an image, so the noise has the shape that the decoder
meets in real images, and the grid keeps the spatial variation of one. Relatives put captions in
place of images through the joint space of CLIP: CapDec adds Gaussian noise (Nukrai et al. 2022,
"Text-only training for image captioning using noise-injected CLIP"), DeCap projects onto stored
captions (Li et al. 2023). The regression needs pairs and any CNN, but no CLIP.
"""

from __future__ import annotations

import random
from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from itertools import accumulate
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from captioner.text.tokenizer import SPECIALS

RIDGE = 20.0  # lambda

LoadFeatures = Callable[[int, random.Random], Tensor]
"""(index of an image, random number generator) -> its features (P, C)."""

Captions = Sequence[Sequence[Sequence[int]]]
"""Token ids of each caption of each example."""


def bag_of_words(token_ids: Iterable[int]) -> list[int]:
    """Return the ids of the distinct words of a caption, ascending, without special tokens."""
    return sorted({token for token in token_ids if token >= len(SPECIALS)})


class WordRegression(NamedTuple):
    """The regression from the words of a caption to the summary of its image."""

    words: dict[int, int]  # token id of each word that occurs in the pairs -> its row of `weights`
    weights: NDArray[np.float32]  # W (words, C)

    def predict(self, token_ids: Iterable[int]) -> NDArray[np.float32]:
        """Return W^T x (C,) of a caption, without the intercept; unknown words add nothing."""
        rows = [self.words[word] for word in bag_of_words(token_ids) if word in self.words]
        return self.weights[rows].sum(axis=0)  # type: ignore[no-any-return]


def fit(captions: Captions, summaries: Iterable[NDArray[np.float32]]) -> WordRegression:
    """Fit the regression.

    X has a row for each pair, but only sums over pairs are stored: X^T X, X^T Y and the means.

    Args:
        captions: of each image.
        summaries: the summary (C,) of each image.
    """
    bags = [[bag_of_words(caption) for caption in of_image] for of_image in captions]
    ids = sorted({word for of_image in bags for bag in of_image for word in bag})
    words = {word: row for row, word in enumerate(ids)}
    pairs = sum(map(len, bags))  # N
    gram = np.zeros((len(ids), len(ids)))  # X^T X, before centring
    products: NDArray[np.float64] | None = None  # X^T Y (words, C), before centring
    total: NDArray[np.float64] | None = None  # sum of Y (C,)
    for of_image, summary in zip(bags, summaries, strict=True):
        if products is None or total is None:
            products, total = np.zeros((len(ids), len(summary))), np.zeros(len(summary))
        # All captions of an image have the same y, so their bags are added first.
        counts = np.zeros(len(ids))
        for bag in of_image:
            rows = [words[word] for word in bag]
            gram[np.ix_(rows, rows)] += 1
            counts[rows] += 1
        used = counts.nonzero()[0]
        products[used] += counts[used, None] * summary
        total += len(of_image) * summary
    assert products is not None  # there is at least one image
    assert total is not None
    frequency = gram.diagonal() / pairs  # mean of X (words,)
    # Centring: sum (x - mean x)(x - mean x)^T = X^T X - N mean x mean x^T, and likewise for X^T Y.
    gram -= pairs * np.outer(frequency, frequency)
    products -= np.outer(frequency, total)
    gram[np.diag_indices_from(gram)] += RIDGE
    return WordRegression(words, np.linalg.solve(gram, products).astype(np.float32))


class SyntheticFeatures:
    """The features of images, and made-up ones for the captions without images after them."""

    def __init__(self, load: LoadFeatures, captions: Captions, *, num_images: int) -> None:
        """Fit the regression on the images; it takes seconds.

        Args:
            load: returns the features of an image.
            captions: of each example: first the images, then each caption without one.
            num_images: the number of images.
        """
        self._load, self._captions = load, captions
        self._num_images = num_images
        rng = random.Random(0)  # with cached crops, it draws a view of each image
        images = captions[:num_images]
        summaries = (load(index, rng).float().mean(dim=0).numpy() for index in range(num_images))
        self.regression = fit(images, summaries)
        # The pairs before each image, to find the image of a pair.
        self._first_pairs = list(accumulate(map(len, images), initial=0))

    def __call__(self, index: int, rng: random.Random) -> Tensor:
        """Return the features (P, C) of an example."""
        if index < self._num_images:
            return self._load(index, rng)
        pair = rng.randrange(self._first_pairs[-1])
        image = bisect_right(self._first_pairs, pair) - 1  # j
        paired = self._captions[image][pair - self._first_pairs[image]]  # c_j
        [caption] = self._captions[index]  # c
        predict = self.regression.predict
        shift = torch.from_numpy(predict(caption) - predict(paired))  # W^T (x(c) - x(c_j)), (C,)
        features = self._load(image, rng)  # f_j (P, C)
        return (features.float() + shift).to(features.dtype)
