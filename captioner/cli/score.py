"""Say how probable a model finds captions that are there already: to rank them, or to find wrong annotations."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import typer

from captioner.config.schema import DeviceName, PrecisionName
from captioner.console import console, one_line, readable
from captioner.data.datasets import load_examples
from captioner.data.images import find_images
from captioner.data.problems import read_text
from captioner.errors import UsageError


def score_captions(
    image: str,
    captions: Sequence[str],
    *,
    models: Sequence[Path] = (),
    device: DeviceName = "auto",
    precision: PrecisionName = "auto",
    as_json: bool = False,
) -> bool:
    """Rank captions of one image by the mean log-probability of their words, the likeliest first.

    Returns:
        Whether the image could not be read.

    Raises:
        UsageError: there is not one image, or no caption.
    """
    files = find_images([image])
    if len(files) != 1:
        raise UsageError(
            f"{image}: {len(files)} images; name one, or score a data set with --annotations"
        )
    if not captions:
        raise UsageError("no captions to score: give some with --caption or --captions")
    return _rank(
        [(str(files[0]), files[0], captions)],
        models,
        device,
        precision,
        worst=None,
        as_json=as_json,
    )


def score_annotations(
    annotations: Path,
    *,
    images: Path | None = None,
    split: str | None = None,
    worst: int = 20,
    models: Sequence[Path] = (),
    device: DeviceName = "auto",
    precision: PrecisionName = "auto",
    as_json: bool = False,
) -> bool:
    """Find the captions of a data set that the model finds least likely, the worst first.

    Returns:
        Whether some image could not be read.
    """
    examples = load_examples(annotations, images, split)
    given = [(example.image_id, example.path, example.captions) for example in examples]
    return _rank(given, models, device, precision, worst=worst, as_json=as_json)


def read_captions(file: Path) -> list[str]:
    """Read a text file of captions, one a line.

    Raises:
        UsageError: it cannot be read, or is empty.
    """
    return [line.strip() for line in read_text(file).splitlines() if line.strip()]


class _Scored(NamedTuple):
    """A caption, and how probable it is."""

    mean: float  # log-probability of a word, the end counted as one
    log_prob: float
    unknown: int  # words that the model does not know
    image_id: int | str
    image: Path
    text: str


def _rank(
    given: Sequence[tuple[int | str, Path, Sequence[str]]],
    models: Sequence[Path],
    device: DeviceName,
    precision: PrecisionName,
    *,
    worst: int | None,
    as_json: bool,
) -> bool:
    """Score and print all captions, the likeliest first; or the `worst`, least likely first."""
    from captioner.inference.captioner import (
        Captioner,
    )  # imports torch, which a wrong path should not wait for

    captioner = Captioner.from_pretrained(*models, device=device, precision=precision)
    found: list[_Scored] = []
    read = 0
    stream = captioner.score([path for _, path, _ in given], [captions for _, _, captions in given])
    for (name, path, captions), result in readable(given, stream, doing="scoring"):
        read += 1
        for text, caption in zip(captions, result, strict=True):
            unknown = sum(word.text == "<unk>" for word in caption.words)
            mean = caption.log_prob / (len(caption.words) + 1)
            found.append(_Scored(mean, caption.log_prob, unknown, name, path, text))
    found.sort(key=lambda scored: scored.mean, reverse=worst is None)
    _print(found[:worst], as_json=as_json)
    return read < len(given)


def _print(found: Sequence[_Scored], *, as_json: bool) -> None:
    for mean, log_prob, unknown, name, path, text in found:
        if as_json:
            values = {"image_id": name, "image": str(path), "caption": text, "log_prob": log_prob}
            typer.echo(json.dumps(values | {"mean_log_prob": mean, "unknown_words": unknown}))
        else:
            typer.echo(f"{mean:.3f}\t{log_prob:.2f}\t{one_line(name)}\t{one_line(text)}")
    if unsure := sum(scored.unknown > 0 for scored in found):
        console.print(
            f"captioner: {unsure} of these captions hold words the model does not know; they count as <unk>"
        )
