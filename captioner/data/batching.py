"""From examples to padded batches: the data set, the collate function and the batch samplers."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from captioner.data.datasets import Example
from captioner.data.images import read_image
from captioner.data.transforms import Transform
from captioner.errors import ImageError
from captioner.text.tokenizer import PAD
from captioner.types import Batch

LoadSource = Callable[[int, random.Random], Tensor]
"""(index of an example, random number generator) → its image, or its cached features."""

SampleKey = tuple[int, int]
"""(epoch, index). Workers live longer than an epoch, so each key carries its epoch."""

Sample = tuple[Tensor, list[list[int]], int]
"""(source, token ids of its captions with <bos> and <eos>, index of the example in its split)."""


@dataclass(frozen=True)
class ImageSource:
    """Reads and transforms the images of a split from their files."""

    examples: Sequence[Example]
    transform: Transform

    def __call__(self, index: int, rng: random.Random) -> Tensor:
        """Return the image (3, size, size) as uint8."""
        image = read_image(self.examples[index].path, min_side=self.transform.min_side)
        return self.transform(image, rng)


@dataclass(frozen=True)
class CaptionDataset(Dataset[Sample | ImageError]):
    """Images with their captions: all of them, or `captions_per_image` drawn anew in each epoch.

    Each sample has its own random number generator, seeded with (seed, epoch, index). The samples
    are therefore the same for any number of workers and in a resumed run.
    """

    load: LoadSource
    captions: Sequence[Sequence[list[int]]]
    captions_per_image: int | Literal["all"]
    seed: int

    def __len__(self) -> int:
        return len(self.captions)

    def __getitem__(self, key: SampleKey) -> Sample | ImageError:
        """Return an image with its captions, or the error if the image cannot be read."""
        epoch, index = key
        rng = random.Random(f"{self.seed} {epoch} {index}")
        captions = self.captions[index]
        if self.captions_per_image != "all" and len(captions) > self.captions_per_image:
            captions = rng.sample(captions, self.captions_per_image)
        try:
            return self.load(index, rng), list(captions), index
        except ImageError as error:
            return error


def collate(samples: Sequence[Sample]) -> Batch:
    """Stack the sources, and pad all their captions to the same length.

    Captions are sorted by length, longest first, regardless of their image: neighbours then have
    nearly the same length, and the decoder processes little padding.
    """
    pairs = [(caption, row) for row, (_, captions, _) in enumerate(samples) for caption in captions]
    pairs.sort(key=lambda pair: len(pair[0]), reverse=True)
    captions, source_index = zip(*pairs, strict=True)
    tokens, mask = pad(captions)  # (N, T), (N, T)
    sources, _, example_index = zip(*samples, strict=True)
    return Batch(
        torch.stack(sources), tokens, mask, torch.tensor(source_index), torch.tensor(example_index)
    )


def pad(captions: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    """Return tokens (N, T), padded with <pad> to the longest caption, and the mask (N, T).

    The mask is True on every token but <pad>.
    """
    lengths = torch.tensor([len(caption) for caption in captions])  # (N,)
    tokens = torch.full((len(captions), int(lengths.max())), PAD)  # (N, T)
    mask = torch.arange(tokens.shape[1]) < lengths.unsqueeze(1)  # (N, T)
    tokens[mask] = torch.tensor([token for caption in captions for token in caption])
    return tokens, mask


def split_evenly(count: int, parts: int) -> list[slice]:
    """Return `parts` consecutive slices of `count` items, with lengths that differ by at most 1."""
    edges = [count * part // parts for part in range(parts + 1)]
    return [slice(start, stop) for start, stop in pairwise(edges)]


@dataclass
class EpochBatchSampler(Sampler[list[SampleKey]]):
    """Batch sampler that visits each example once an epoch, in an order set by seed and epoch.

    The batches of an epoch differ in size by at most one image: there is no small last batch.
    Each batch is divided among `num_ranks` ranks, and each rank's share into `micro_batches`.
    Which images are in a batch depends on neither, so every rank takes the same number of steps.
    Set `epoch` and `first_batch` (the batch to start from) before you iterate.
    """

    num_examples: int
    batch_size: int
    seed: int
    rank: int = 0
    num_ranks: int = 1
    micro_batches: int = 1
    epoch: int = field(default=0, init=False)
    first_batch: int = field(default=0, init=False)

    @property
    def num_batches(self) -> int:
        """Return the number of batches in an epoch."""
        return -(-self.num_examples // self.batch_size)

    def __len__(self) -> int:
        return (self.num_batches - self.first_batch) * self.micro_batches

    def __iter__(self) -> Iterator[list[SampleKey]]:
        order = list(range(self.num_examples))
        random.Random(f"{self.seed} {self.epoch}").shuffle(order)
        for batch in split_evenly(len(order), self.num_batches)[self.first_batch :]:
            indices = order[batch]
            shares = split_evenly(len(indices), self.num_ranks * self.micro_batches)
            for share in shares[self.rank * self.micro_batches :][: self.micro_batches]:
                yield [(self.epoch, index) for index in indices[share]]


BatchSampler = EpochBatchSampler | list[list[SampleKey]]
"""The keys of each batch, as the `batch_sampler` of a DataLoader."""


def sequential_batches(count: int, batch_size: int) -> list[list[SampleKey]]:
    """Return the batches of one pass in order, for validation and for the feature cache."""
    return [
        [(0, index) for index in range(start, min(start + batch_size, count))]
        for start in range(0, count, batch_size)
    ]
