"""`captioner score`: log-probabilities of given captions, to rank them or find wrong ones."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, NamedTuple

import typer

from captioner.cli.options import (
    ImagesOption,
    JsonOption,
    ModelsOption,
    SplitOption,
    load_captioner,
    with_options,
)
from captioner.config.schema import InferenceConfig
from captioner.console import console, one_line
from captioner.data.datasets import Example, load_examples
from captioner.data.images import find_images
from captioner.data.problems import read_text
from captioner.errors import UsageError
from captioner.progress import skip_unreadable
from captioner.results.values import mean_log_prob, num_unknown

EXAMPLE = "captioner score photo.jpg --caption 'a dog runs' --caption 'a cat sleeps'"


@with_options
def score(
    inference: InferenceConfig,
    image: Annotated[
        str | None,
        typer.Argument(
            metavar="[IMAGE]", help="One image, to rank its captions.", show_default=False
        ),
    ] = None,
    caption: Annotated[
        list[str] | None,
        typer.Option(
            metavar="TEXT", help="A caption of the image; repeatable.", show_default=False
        ),
    ] = None,
    captions: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="More captions, one per line.", show_default=False),
    ] = None,
    annotations: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Instead of an image: find the least likely captions of a data set.",
            show_default=False,
        ),
    ] = None,
    images: ImagesOption = None,
    split: SplitOption = None,
    worst: Annotated[int, typer.Option(min=1, help="With --annotations: how many.")] = 20,
    model: ModelsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Print log-probabilities of given captions.

    Each line holds the mean per word, the caption's sum, the image and the caption. For one image,
    the most likely caption comes first; for a data set, the least likely.
    """
    if image is not None and annotations is None:
        examples = [_read_example(image, caption or [], captions)]
    elif annotations is not None and image is None:
        examples = load_examples(annotations, images, split)
    else:
        raise UsageError("name one image with its captions, or a data set with --annotations")
    scored, num_read = _score(examples, model, inference)
    scored.sort(key=lambda each: each.mean_log_prob, reverse=annotations is None)
    _print(scored[:worst] if annotations else scored, as_json=as_json)
    if num_read < len(examples):
        raise typer.Exit(3)


def _read_example(image: str, captions: Sequence[str], more: Path | None) -> Example:
    """Return one image with the captions of --caption and of the file `more`, one per line.

    Raises:
        UsageError: there is not exactly one image, or no caption, or the file cannot be read.
    """
    lines = read_text(more).splitlines() if more else []
    captions = (*captions, *(line.strip() for line in lines if line.strip()))
    files = find_images([image]).files
    if len(files) != 1:
        raise UsageError(
            f"{image}: {len(files)} images; name one, or score a data set with --annotations"
        )
    if not captions:
        raise UsageError("no captions to score: give some with --caption or --captions")
    return Example(str(files[0]), files[0], captions)


class _Scored(NamedTuple):
    """A caption with its log-probability."""

    mean_log_prob: float  # per word; <eos> counts as one
    log_prob: float
    num_unknown: int  # words outside the vocabulary
    example: Example
    text: str


def _score(
    examples: Sequence[Example], models: Sequence[str | Path] | None, inference: InferenceConfig
) -> tuple[list[_Scored], int]:
    """Return the scored captions, and the number of images that could be read."""
    stream = load_captioner(models, inference).score(
        [example.path for example in examples],
        [example.captions for example in examples],
        batch_size=inference.batch_size,
    )
    scored: list[_Scored] = []
    num_read = 0
    for example, captions in skip_unreadable(examples, stream, doing="scoring"):
        num_read += 1
        for text, caption in zip(example.captions, captions, strict=True):
            mean, unknown = mean_log_prob(caption), num_unknown(caption)
            scored.append(_Scored(mean, caption.log_prob, unknown, example, text))
    return scored, num_read


def _print(scored: Sequence[_Scored], *, as_json: bool) -> None:
    for mean, log_prob, unknown, example, text in scored:
        line = f"{mean:.3f}\t{log_prob:.2f}\t{one_line(example.image_id)}\t{one_line(text)}"
        values = {
            "image_id": example.image_id,
            "image": str(example.path),
            "caption": text,
            "log_prob": log_prob,
            "mean_log_prob": mean,
            "unknown_words": unknown,
        }
        typer.echo(json.dumps(values) if as_json else line)
    if with_unknown := sum(each.num_unknown > 0 for each in scored):
        console.print(
            f"captioner: {with_unknown} of these captions hold words "
            "that are not in the vocabulary; they count as <unk>"
        )
