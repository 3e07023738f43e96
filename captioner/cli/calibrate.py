"""Teach a model folder how sure its captions may be."""

from __future__ import annotations

import os
from pathlib import Path

from captioner.config.schema import ConfidenceConfig, DeviceName, PrecisionName
from captioner.console import console, readable
from captioner.data.datasets import load_examples
from captioner.errors import CaptionerError, UsageError
from captioner.metrics.calibration import Said, calibration_error, fit_temperature, unseen_error
from captioner.models.folder import resolve, write_config
from captioner.text.tokenizer import tokenize

FEWEST = 100
"""With fewer images the temperature is kept, with a warning."""


def calibrate(
    model: Path | None,
    annotations: Path,
    *,
    images: Path | None = None,
    split: str | None = None,
    batch_size: int = 16,
    device: DeviceName = "auto",
    precision: PrecisionName = "auto",
) -> tuple[ConfidenceConfig, float]:
    """Caption images that the model has not learnt from, fit the temperature, and keep it in the model folder.

    Returns:
        What is kept, and the calibration error that the model's own probabilities had.

    Raises:
        CaptionerError: no image could be read, or the folder cannot be written.
        UsageError: the annotations are broken, or images are missing.
    """
    folder = resolve(model)
    if not os.access(folder.resolve().parent, os.W_OK):
        raise UsageError(
            f"{folder}: nothing may be written in the folder it lies in; copy the model elsewhere first"
        )
    examples = load_examples(annotations, images, split)
    from captioner.inference.captioner import (
        Captioner,
    )  # imports torch, which a wrong path should not wait for

    captioner = Captioner.from_pretrained(folder, device=device, precision=precision)
    captions = []
    stream = captioner.stream(
        (example.path for example in examples),
        decoding={"min_confidence": 0.0},
        batch_size=batch_size,
    )
    for example, result in readable(examples, stream, doing="captioning"):
        people = {word for caption in example.captions for word in tokenize(caption)}
        captions.append([Said(word.log_prob, word.text in people) for word in result.words])
    if not any(captions):
        raise CaptionerError(
            f"none of the {len(examples)} images of {annotations} could be read and captioned"
        )
    if len(captions) < FEWEST:
        console.print(
            f"captioner: {len(captions)} images are too few to believe the figures; take {FEWEST} or more"
        )
    found = ConfidenceConfig(
        temperature=fit_temperature(captions), error=unseen_error(captions), images=len(captions)
    )
    write_config(folder, captioner.config.model_copy(update={"confidence": found}))
    return found, calibration_error(captions, 1.0)
