"""`captioner calibrate`: fit the confidence of a model's captions to annotated images."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from captioner.cli.options import (
    ImagesOption,
    ModelOption,
    SplitOption,
    load_captioner,
    with_options,
)
from captioner.config.schema import ConfidenceConfig, InferenceConfig
from captioner.console import console, skip_unreadable
from captioner.data.datasets import Example, load_examples
from captioner.errors import CaptionerError, UsageError
from captioner.metrics.calibration import (
    GeneratedWord,
    calibration_error,
    cross_fitted_error,
    fit_temperature,
)
from captioner.models.folder import resolve, write_config
from captioner.text.tokenizer import tokenize

if TYPE_CHECKING:
    from captioner.inference.captioner import Captioner

EXAMPLE = "captioner calibrate --model runs/first/best --annotations captions_val2017.json"

MIN_IMAGES = 100
"""With fewer images the figures are unreliable, and a warning is printed."""


@with_options
def calibrate(
    annotations: Annotated[
        Path,
        typer.Option(
            metavar="FILE", help="Captions of images it was not trained on.", show_default=False
        ),
    ],
    inference: InferenceConfig,
    model: ModelOption = None,
    images: ImagesOption = None,
    split: SplitOption = None,
) -> None:
    """Calibrate the confidence of a model.

    The result is stored in the model folder. The expected calibration error shows how far you can
    rely on the confidence.
    """
    folder = resolve(model)
    if not os.access(folder.resolve().parent, os.W_OK):
        raise UsageError(
            f"{folder}: the folder that holds it is read-only; copy the model elsewhere first"
        )
    examples = load_examples(annotations, images, split)
    captioner = load_captioner([folder], inference)
    captions = _caption(captioner, examples, batch_size=inference.batch_size)
    if not any(captions):
        raise CaptionerError(
            f"none of the {len(examples)} images of {annotations} could be read: check the files"
        )
    if len(captions) < MIN_IMAGES:
        console.print(
            f"captioner: {len(captions)} images are too few for reliable figures; "
            f"use {MIN_IMAGES} or more"
        )
    fitted = ConfidenceConfig(
        temperature=fit_temperature(captions),
        error=cross_fitted_error(captions),
        images=len(captions),
    )
    write_config(folder, captioner.config.model_copy(update={"confidence": fitted}))
    typer.echo(
        f"temperature {fitted.temperature:.3f}, fitted on {fitted.images} images\n"
        f"expected calibration error {fitted.error:.3f} on images it was not fitted on; "
        f"{calibration_error(captions, 1.0):.3f} without calibration"
    )


def _caption(
    captioner: Captioner, examples: Sequence[Example], *, batch_size: int
) -> list[list[GeneratedWord]]:
    """Return the words that the model generates for each readable image."""
    paths = (example.path for example in examples)
    captions = captioner.stream(paths, decoding={"min_confidence": 0.0}, batch_size=batch_size)
    generated = []
    for example, caption in skip_unreadable(examples, captions, doing="captioning"):
        reference_words = {word for text in example.captions for word in tokenize(text)}
        generated.append(
            [GeneratedWord(word.log_prob, word.text in reference_words) for word in caption.words]
        )
    return generated
