"""The sources of a config as lists of examples, and the mixture of them that an epoch holds."""

from __future__ import annotations

import os
import random
from bisect import bisect_right
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import accumulate
from typing import TYPE_CHECKING, NamedTuple

from captioner.config.run import CaptionCount, DataConfig, SourceConfig, source_names
from captioner.console import console
from captioner.data.datasets import Example, LoadedExamples, load_with_problems, train_dev_split
from captioner.data.learnable import too_few_to_hold_out
from captioner.data.parallel import Pair, load_pairs, pair_problems
from captioner.data.plain_text import TextExample, load_text
from captioner.data.problems import Problems
from captioner.data.shapes import draw_shapes
from captioner.errors import UsageError
from captioner.hub_names import parse_hub_name
from captioner.text.tokenizer import tokenize

if TYPE_CHECKING:  # it imports torch, which `captioner check` does not need
    from captioner.distributed import Ranks


SourceExample = Example | Pair
"""What a model learns to caption or to translate: both have `captions`."""


class ExampleSet(NamedTuple):
    """The images of a source with their captions, or its texts with their targets."""

    name: str
    examples: Sequence[SourceExample]
    repeat: int = 1  # how often an epoch visits each example
    captions_per_image: CaptionCount = "all"  # of each visit, drawn at random if there are more


class TextSet(NamedTuple):
    """The captions of a source without images."""

    name: str
    examples: Sequence[TextExample]
    share: float  # of an epoch's captions


class Splits(NamedTuple):
    """What a run learns from and validates on. Image ids are unique within an `ExampleSet` only."""

    train: Sequence[ExampleSet]
    dev: Sequence[ExampleSet]
    text: Sequence[TextSet] = ()

    @property
    def train_examples(self) -> list[SourceExample | TextExample]:
        """All examples to learn from: images or texts with their captions, then captions alone."""
        paired = (example for source in self.train for example in source.examples)
        return [*paired, *(example for text in self.text for example in text.examples)]


@dataclass(frozen=True)
class Mixture:
    """What an epoch holds: the images of each source, repeated, and a share of text.

    An epoch has a fixed number of rows. The first are the images of each source, each as often as
    the source repeats it; then come the rows of each text. Row s of a text with n rows an epoch is,
    in epoch e, caption (e * n + s) modulo the size of the text, in an order that is shuffled once.
    So all captions of a text are used equally often, and a resumed run uses the same ones.
    """

    sources: Sequence[ExampleSet]
    text: Sequence[TextSet]
    seed: int

    def without_text(self) -> Mixture:
        """Return the same images alone; their examples have the same indices."""
        return replace(self, text=())

    @cached_property
    def paired(self) -> list[SourceExample]:
        """The images, or the texts with targets, of all sources."""
        return [example for source in self.sources for example in source.examples]

    @cached_property
    def examples(self) -> list[SourceExample | TextExample]:
        """The examples of all sources, then the captions of all texts, by their indices."""
        return [*self.paired, *(example for text in self.text for example in text.examples)]

    @cached_property
    def captions_per_image(self) -> list[CaptionCount]:
        """The number of captions of each visit to an example: an item for each example."""
        images = [each.captions_per_image for each in self.sources for _ in each.examples]
        return [*images, *[1 for text in self.text for _ in text.examples]]

    @cached_property
    def _image_rows(self) -> list[int]:
        """The index of the image of each row."""
        rows: list[int] = []
        first = 0
        for source in self.sources:
            rows += list(range(first, first + len(source.examples))) * source.repeat
            first += len(source.examples)
        return rows

    @cached_property
    def image_captions(self) -> int:
        """The number of captions of images in an epoch."""
        return sum(
            source.repeat
            * sum(
                len(example.captions)
                if source.captions_per_image == "all"
                else min(len(example.captions), source.captions_per_image)
                for example in source.examples
            )
            for source in self.sources
        )

    @cached_property
    def text_rows(self) -> list[int]:
        """The number n of rows of each text in an epoch, at least 1, from its share.

        The shares are of all captions of the epoch. With a sum S of all shares, the captions of
        images are 1 - S of them, so n = share / (1 - S) * captions of images.
        """
        of_images = 1 - sum(text.share for text in self.text)
        return [max(1, round(text.share / of_images * self.image_captions)) for text in self.text]

    @property
    def num_rows(self) -> int:
        """The number of rows of an epoch."""
        return len(self._image_rows) + sum(self.text_rows)

    @cached_property
    def _orders(self) -> list[list[int]]:
        """The indices of the examples of each text, shuffled once."""
        orders = []
        first = len(self.paired)
        for position, text in enumerate(self.text):
            order = list(range(first, first + len(text.examples)))
            random.Random(f"{self.seed} text {position}").shuffle(order)
            orders.append(order)
            first += len(order)
        return orders

    @cached_property
    def _first_rows(self) -> list[int]:
        """The first row of each text."""
        return list(accumulate(self.text_rows, initial=len(self._image_rows)))[:-1]

    def example_index(self, epoch: int, row: int) -> int:
        """Return the index in `examples` of a row of an epoch."""
        if row < len(self._image_rows):
            return self._image_rows[row]
        text = bisect_right(self._first_rows, row) - 1
        order = self._orders[text]
        place = epoch * self.text_rows[text] + row - self._first_rows[text]
        return order[place % len(order)]


class Sources(NamedTuple):
    """The sources of a config, by name. Without dev, it is held out from train."""

    train: dict[str, SourceConfig]
    dev: dict[str, SourceConfig]


def find_sources(data: DataConfig) -> Sources:
    """Return the sources of train and dev.

    Raises:
        UsageError: train is not set, or a file is missing; the message ends with `data.hint`.
    """
    if data.shapes:
        folder = data.shapes.folder
        train, dev = (
            SourceConfig(annotations=folder / f"captions_{split}.json", images=folder / split)
            for split in ("train", "dev")
        )
        return Sources({"train": train}, {"dev": dev})
    if data.generated:
        from captioner.data.generated import generated_files

        files = generated_files(data.generated.task, data.generated.folder)
        train, dev = (SourceConfig(source=file) for file in files)
        return Sources({"train": train}, {"dev": dev})
    if not data.train:
        raise UsageError(
            "data.train is missing: name its annotations, as in "
            "data.train.annotations=captions.jsonl, or texts with their translations, as in "
            "data.train.source=train.en data.train.target=train.de"
        )
    for split, sources in (("train", data.train), ("dev", data.dev)):
        for number, source in enumerate(sources):
            for kind in ("annotations", "text", "source", "target"):
                path = getattr(source, kind)
                if data.hint and path and not os.path.exists(path):  # Path.exists may raise
                    index = f"{number}." if len(sources) > 1 else ""
                    raise UsageError(
                        f"data.{split}.{index}{kind}: {path} does not exist: check the path, "
                        f"or get the data. {data.hint}"
                    )
    return Sources(
        *(
            dict(zip(source_names(sources), sources, strict=True))
            for sources in (data.train, data.dev)
        )
    )


def load_splits(data: DataConfig, ranks: Ranks) -> Splits:
    """Return the examples of train and dev; small data sets are made, and dev may be held out.

    Captions of text that are references of dev are left out; their number is printed. So is that
    of the texts of dev that are in train too, which are kept.

    Raises:
        UsageError: a file is missing or has errors.
    """
    if data.shapes:
        with ranks.first_rank_first():
            draw_shapes(data.shapes.folder, train=data.shapes.train, dev=data.shapes.dev)
    if made := data.generated:
        from captioner.data.generated import generate

        with ranks.first_rank_first():
            generate(made.task, made.folder, train=made.train, dev=made.dev)
    sources = find_sources(data)
    has_shards = any(each.shards for each in (*data.train, *data.dev))
    with ranks.first_rank_first() if has_shards else nullcontext():  # it builds their indexes
        train = [_load(name, each, data) for name, each in sources.train.items() if not each.text]
        dev = [_load(name, each, data) for name, each in sources.dev.items()]
    if not dev:
        train, dev = hold_out(train, data.holdout)
    _print_shared_sources(train, dev)
    references = reference_words(example for source in dev for example in source.examples)
    text = [
        _load_text(name, each, data.share_of(each), references)
        for name, each in sources.train.items()
        if each.text
    ]
    return Splits(train, dev, text)


def _load(name: str, source: SourceConfig, data: DataConfig) -> ExampleSet:
    examples: Sequence[SourceExample]
    if source.source:
        problems = pair_problems(source.source, source.target)
        examples = load_pairs(source.source, source.target, problems)
        problems.raise_errors()
    else:
        examples = _load_images(source, skip_missing=data.on_bad_image == "skip")
    captions_per_image = source.captions_per_image or data.captions_per_image
    return ExampleSet(name, examples, source.repeat, captions_per_image)


def load_image_source(
    source: SourceConfig, problems: Problems, *, skip_missing: bool
) -> LoadedExamples:
    """Load the annotated images of a source as `load_with_problems` does."""
    if source.shards:
        from captioner.data.shard_examples import load_shards

        examples = load_shards(source.shards, problems, skip_damaged=skip_missing)
        return LoadedExamples(examples, set())
    if source.dataset:
        from captioner.data.hf_datasets import load_dataset_examples

        examples = load_dataset_examples(
            source.dataset,
            split=source.split,
            subset=source.subset,
            image=source.image,
            captions=source.caption,
            problems=problems,
        )
        return LoadedExamples(examples, set())
    return load_with_problems(
        source.path,
        source.images,
        source.split,
        restval=source.restval,
        skip_missing=skip_missing,
        problems=problems,
    )


def _load_images(source: SourceConfig, *, skip_missing: bool) -> list[Example]:
    """Return the examples of a source. Its missing images are an error unless they are skipped."""
    problems = Problems(", ".join(source.shards) or source.path)
    loaded = load_image_source(source, problems, skip_missing=skip_missing)
    way_out = (
        "name their folder in `images` of this source, or train without the missing ones: "
        "data.on_bad_image=skip"
    )
    problems.raise_errors(way_out if loaded.missing and not skip_missing else "")
    return loaded.examples


def describe_splits(data: DataConfig, splits: Splits) -> dict[str, list[dict[str, object]]]:
    """Return the name and the size of each source of train and dev, as values for JSON.

    Names of data sets on the hub are among them, but no paths of this machine.
    """
    named = find_sources(data)
    return {
        "train": [
            *(_describe(each, named.train) for each in splits.train),
            *(_describe(each, named.train) for each in splits.text),
        ],
        "dev": [_describe(each, named.dev or named.train) for each in splits.dev],
    }


def _describe(
    source: ExampleSet | TextSet, settings: Mapping[str, SourceConfig]
) -> dict[str, object]:
    dataset = settings[source.name].dataset
    hub = parse_hub_name(dataset) if dataset else None
    return {
        "name": source.name,
        **({"dataset": hub.name} if hub else {}),
        "examples": len(source.examples) if isinstance(source, ExampleSet) else 0,
        "captions": sum(len(example.captions) for example in source.examples),
        "repeat": source.repeat if isinstance(source, ExampleSet) else 1,
    }


def shared_sources(train: Iterable[SourceExample], dev: Iterable[SourceExample]) -> list[Pair]:
    """Return the pairs of dev whose source text is that of a pair of train."""
    known = {example.source for example in train if isinstance(example, Pair)}
    return [example for example in dev if isinstance(example, Pair) and example.source in known]


def _print_shared_sources(train: Sequence[ExampleSet], dev: Sequence[ExampleSet]) -> None:
    examples = [example for source in train for example in source.examples]
    for source in dev:
        if shared := shared_sources(examples, source.examples):
            console.print(
                f"{len(shared)} of {len(source.examples)} dev texts of {source.name} "
                "are in train too: kept"
            )


def hold_out(
    sources: Iterable[ExampleSet], share: float
) -> tuple[list[ExampleSet], list[ExampleSet]]:
    """Split each source at random into train and dev, with at least one example in each.

    Raises:
        UsageError: a source has one example.
    """
    train, dev = [], []
    for source in sources:
        kept, held_out = train_dev_split(source.examples, share)
        if not kept:
            noun = "text" if isinstance(held_out[0], Pair) else "image"
            raise UsageError(f"data.train: {too_few_to_hold_out(source.name, noun)}")
        train.append(source._replace(examples=kept))
        dev.append(source._replace(examples=held_out, repeat=1))
    return train, dev


def reference_words(examples: Iterable[SourceExample]) -> set[tuple[str, ...]]:
    """Return the words of each caption of the examples."""
    return {tuple(tokenize(caption)) for example in examples for caption in example.captions}


def divide_text(
    text: Iterable[TextExample], references: Collection[tuple[str, ...]]
) -> tuple[list[TextExample], list[TextExample]]:
    """Return the captions to train on, and those whose words equal those of a reference."""
    kept: list[TextExample] = []
    leaked: list[TextExample] = []
    for example in text:
        (leaked if tuple(tokenize(example.caption)) in references else kept).append(example)
    return kept, leaked


def _load_text(
    name: str, source: SourceConfig, share: float, references: Collection[tuple[str, ...]]
) -> TextSet:
    problems = Problems(source.path)
    examples = load_text(source.path, problems)
    problems.raise_errors()
    kept, leaked = divide_text(examples, references)
    if leaked:
        console.print(f"{len(leaked)} captions of {source.path} are references of dev: left out")
    if not kept:
        raise UsageError(f"{source.path}: every caption is a reference of dev: leave the file out")
    return TextSet(name, kept, share)
