"""From examples to batches: who is in which batch, and how captions are padded. Knows no model."""

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
from captioner.text.vocabulary import PAD
from captioner.types import Batch

Load = Callable[[int, random.Random], Tensor]
"""(index of an example, its random numbers) → its image, or its cached features."""

Key = tuple[int, int]
"""(epoch, index): the epoch travels with the index, so that workers can live longer than an epoch."""

Item = tuple[Tensor, list[list[int]], int]
"""A source, the word numbers of its captions with <bos> and <eos>, and which example of its split it is."""


@dataclass(frozen=True)
class ImageSource:
    """Read and transform images from their files."""

    examples: Sequence[Example]
    transform: Transform

    def __call__(self, index: int, rng: random.Random) -> Tensor:
        """Give the image (3, size, size) as bytes."""
        image = read_image(self.examples[index].path, at_least=self.transform.at_least)
        return self.transform(image, rng)


@dataclass(frozen=True)
class CaptionDataset(Dataset[Item | ImageError]):
    """An image with all of its captions, or with so many, chosen anew in each epoch where there are more.

    All chance is drawn from (seed, epoch, index), so neither the number of workers nor a resumed run changes it.
    """

    load: Load
    captions: Sequence[Sequence[list[int]]]
    captions_per_image: int | Literal["all"]
    seed: int

    def __len__(self) -> int:
        return len(self.captions)

    def __getitem__(self, key: Key) -> Item | ImageError:
        """Give an image with its captions, or say why it cannot be read."""
        epoch, index = key
        rng = random.Random(f"{self.seed} {epoch} {index}")
        captions = self.captions[index]
        if self.captions_per_image != "all" and len(captions) > self.captions_per_image:
            captions = rng.sample(captions, self.captions_per_image)
        try:
            return self.load(index, rng), list(captions), index
        except ImageError as error:
            return error


def collate(items: Sequence[Item]) -> Batch:
    """Stack the sources, pad their captions, and note which caption belongs to which source, and which image that is.

    Captions come longest first, whoever owns them: neighbours of one length leave the decoder little padding to read.
    """
    pairs = [
        (caption, place) for place, (_, captions, _) in enumerate(items) for caption in captions
    ]
    pairs.sort(key=lambda pair: len(pair[0]), reverse=True)
    captions, source_index = zip(*pairs, strict=True)
    tokens, mask = pad(captions)
    sources, _, images = zip(*items, strict=True)
    return Batch(
        torch.stack(sources), tokens, mask, torch.tensor(source_index), torch.tensor(images)
    )


def pad(captions: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    """Give tokens (N, T), each caption filled up to the longest with <pad>, and the mask (N, T) of the real ones."""
    lengths = torch.tensor([len(caption) for caption in captions])
    tokens = torch.full((len(captions), int(lengths.max())), PAD)  # (N, T)
    mask = torch.arange(tokens.shape[1]) < lengths.unsqueeze(1)  # (N, T)
    tokens[mask] = torch.tensor([word for caption in captions for word in caption])
    return tokens, mask


def spread(count: int, parts: int) -> list[slice]:
    """Cut `count` things into `parts` runs whose lengths differ by one at most."""
    edges = [count * part // parts for part in range(parts + 1)]
    return [slice(start, stop) for start, stop in pairwise(edges)]


@dataclass
class EpochSampler(Sampler[list[Key]]):
    """Deal the examples into batches: each once in an epoch, in an order that the seed and the epoch give.

    An epoch's batches differ by one image at most, so there is no small last one, and every rank gets the same number
    of batches however the numbers fall. A batch is dealt out to `ranks`, and to the `parts` a rank works through it in;
    what is in it does not depend on either. Set `epoch` and `first` (the batch to begin at) before iterating.
    """

    examples: int
    batch_size: int
    seed: int
    rank: int = 0
    ranks: int = 1
    parts: int = 1
    epoch: int = field(default=0, init=False)
    first: int = field(default=0, init=False)

    @property
    def batches(self) -> int:
        """Batches in an epoch."""
        return -(-self.examples // self.batch_size)

    def __len__(self) -> int:
        return (self.batches - self.first) * self.parts

    def __iter__(self) -> Iterator[list[Key]]:
        order = list(range(self.examples))
        random.Random(f"{self.seed} {self.epoch}").shuffle(order)
        for batch in spread(len(order), self.batches)[self.first :]:
            members = order[batch]
            shares = spread(len(members), self.ranks * self.parts)
            for share in shares[self.rank * self.parts : (self.rank + 1) * self.parts]:
                yield [(self.epoch, index) for index in members[share]]


Batches = EpochSampler | list[list[Key]]
"""Which keys go together, in which order."""


def in_order(count: int, batch_size: int) -> list[list[Key]]:
    """Batches of everything, once, as it comes: for validation and for the feature cache."""
    return [
        [(0, index) for index in range(start, min(start + batch_size, count))]
        for start in range(0, count, batch_size)
    ]
