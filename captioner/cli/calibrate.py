"""`captioner calibrate`: fit the confidence of a model's captions to annotated data sets."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Annotated

import typer

from captioner.cli.options import (
    ModelOption,
    SplitOption,
    check_may_change,
    load_captioner,
    with_options,
)
from captioner.config.schema import ConfidenceConfig, InferenceConfig
from captioner.console import console, one_line
from captioner.data.datasets import Example, load_examples
from captioner.errors import CaptionerError, UsageError
from captioner.metrics.calibration import (
    RIGHT_SHARE,
    GeneratedWord,
    ScoredCaption,
    calibration_error,
    cross_fit,
    fit_temperature,
    fit_threshold,
    score_captions,
    sureness_rates,
)
from captioner.models.folder import resolve, write_config
from captioner.progress import skip_unreadable

if TYPE_CHECKING:
    from captioner.inference.captioner import Captioner

EXAMPLE = "captioner calibrate --model runs/first/best --annotations captions_val2017.json"

MIN_IMAGES = 100
"""With fewer images the figures are unreliable, and a warning is printed."""


@with_options
def calibrate(
    annotations: Annotated[
        list[Path],
        typer.Option(
            metavar="FILE",
            help="Captions of images it was not trained on; repeat it for several data sets.",
            show_default=False,
        ),
    ],
    inference: InferenceConfig,
    model: ModelOption = None,
    images: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FOLDER",
            help="Folder of the images; with several data sets, one for each, in their order.",
            show_default="found beside the annotations",
        ),
    ] = None,
    split: SplitOption = None,
) -> None:
    """Calibrate the confidence of a model.

    Fits a temperature for the confidence, and a threshold below which a caption is marked unsure.
    Both are stored in the model folder. Each data set has the same weight. The table shows how far
    you can rely on them, on images that they were not fitted on.
    """
    check_may_change(model)
    folder = resolve(model)
    if not os.access(folder.resolve().parent, os.W_OK):
        raise UsageError(
            f"{folder}: the folder that holds it is read-only; copy the model elsewhere first"
        )
    if images and len(images) != len(annotations):
        raise UsageError(
            f"--images names {len(images)} folders for {len(annotations)} data sets: "
            "name one for each, in the same order, or leave it out"
        )
    folders: Sequence[Path | None] = images or [None] * len(annotations)
    examples = [
        load_examples(file, root, split) for file, root in zip(annotations, folders, strict=True)
    ]
    captioner = load_captioner([folder], inference)
    data_sets = [
        _caption(captioner, name, each, batch_size=inference.batch_size)
        for name, each in zip(annotations, examples, strict=True)
    ]
    temperature = fit_temperature(*data_sets)
    held_out = cross_fit(*data_sets)
    fitted = ConfidenceConfig(
        temperature=temperature,
        error=fmean(map(calibration_error, held_out)),
        images=sum(map(len, data_sets)),
        threshold=fit_threshold(*data_sets, temperature=temperature),
    )
    write_config(folder, captioner.config.model_copy(update={"confidence": fitted}))
    uncalibrated = [calibration_error(score_captions(each, 1.0)) for each in data_sets]
    typer.echo(
        f"temperature {fitted.temperature:.3f}, fitted on {fitted.images} images\n"
        f"{_describe_threshold(fitted.threshold)}\n\n"
        f"{_table(annotations, held_out, uncalibrated)}"
    )


def _caption(
    captioner: Captioner, annotations: Path, examples: Sequence[Example], *, batch_size: int
) -> list[list[GeneratedWord]]:
    """Return the words that the model generates for each readable image of a data set.

    Raises:
        CaptionerError: no image can be read, or no caption has a word.
    """
    paths = (example.path for example in examples)
    captions = captioner.stream(paths, decoding={"min_confidence": 0.0}, batch_size=batch_size)
    generated = []
    tokenize = captioner.vocabulary.tokenizer.tokenize  # references become the model's words
    for example, caption in skip_unreadable(examples, captions, doing="captioning"):
        reference_words = {word for text in example.captions for word in tokenize(text)}
        generated.append(
            [GeneratedWord(word.log_prob, word.text in reference_words) for word in caption.words]
        )
    if not generated:
        raise CaptionerError(
            f"none of the {len(examples)} images of {annotations} could be read: check the files"
        )
    if not any(generated):
        raise CaptionerError(
            f"every caption of the {len(generated)} images of {annotations} is empty, so that no "
            "word can be calibrated: check what the model was trained on"
        )
    if len(generated) < MIN_IMAGES:
        console.print(
            f"captioner: {annotations}: {len(generated)} images are too few for reliable figures; "
            f"use {MIN_IMAGES} or more",
            markup=False,
        )
    return generated


def _describe_threshold(threshold: float | None) -> str:
    if threshold is None:
        return (
            "no threshold: the confidence does not separate right from wrong captions here; "
            "no caption is marked"
        )
    return f"threshold {threshold:.3f}: a caption with less confidence is marked unsure"


def _table(
    annotations: Sequence[Path],
    held_out: Sequence[Sequence[ScoredCaption]],
    uncalibrated: Sequence[float],
) -> str:
    """Return a text table: a row for each data set, and their mean if there are several.

    Args:
        annotations: the name of each data set.
        held_out: the captions of each, scored by a calibration that was fitted on others.
        uncalibrated: the calibration error of each at temperature 1.
    """
    rows = [
        (calibration_error(scored), before, *sureness_rates(scored))
        for scored, before in zip(held_out, uncalibrated, strict=True)
    ]
    names = [one_line(file) for file in annotations]
    if len(rows) > 1:
        names.append("mean")
        rows.append(tuple(map(fmean, zip(*rows, strict=True))))  # type: ignore[arg-type]
    width = max(map(len, names))
    lines = [
        f"{'':<{width}}{'calibration error':>20}{'':>9}{'right':>14}{'words correct':>18}",
        f"{'':<{width}}{'now':>10}{'before':>10}{'unsure':>9}"
        f"{'sure':>7}{'unsure':>7}{'sure':>11}{'unsure':>7}",
    ]
    for name, (now, before, unsure, *rates) in zip(names, rows, strict=True):
        right_sure, right_unsure, words_sure, words_unsure = map(_percent, rates)
        lines.append(
            f"{name:<{width}}{now:>10.3f}{before:>10.3f}{_percent(unsure):>9}"
            f"{right_sure:>7}{right_unsure:>7}{words_sure:>11}{words_unsure:>7}"
        )
    lines += ["", f"right: at least {RIGHT_SHARE:.0%} of the caption's words are in its references"]
    return "\n".join(lines)


def _percent(share: float) -> str:
    return "-" if math.isnan(share) else f"{share:.0%}"
