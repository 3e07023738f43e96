"""Score a model, or captions that are already there."""

from __future__ import annotations

from pathlib import Path

from captioner.config import DeviceName, PrecisionName
from captioner.console import console, track
from captioner.data.datasets import load_examples, load_references
from captioner.errors import CaptionerError, ImageError
from captioner.metrics.report import Scorer, Scores
from captioner.metrics.results import check_destination, read_results, write_results


def score_results(results: Path, annotations: Path, *, split: str | None = None) -> Scores:
    """Score a results file.

    Raises:
        UsageError: a file is broken, or the results are not of these images.
    """
    return Scorer(load_references(annotations, split)).score(read_results(results))


def evaluate_model(
    model: Path | None,
    annotations: Path,
    *,
    images: Path | None = None,
    split: str | None = None,
    results: Path | None = None,
    beam: int | None = None,
    max_length: int | None = None,
    batch_size: int = 16,
    device: DeviceName = "auto",
    precision: PrecisionName = "auto",
) -> tuple[Scores, bool]:
    """Caption every image of the annotation file, write the results, and score them.

    Returns:
        The scores of the images that could be read, and whether some could not.

    Raises:
        CaptionerError: no image could be read.
        UsageError: the annotations are broken, or images are missing.
    """
    if results:
        check_destination(results)
    examples = load_examples(annotations, images, split)
    from captioner.inference import Captioner  # imports torch, which a wrong path should not wait for

    captioner = Captioner.from_pretrained(model, device=device, precision=precision)
    captions: dict[int | str, str] = {}
    stream = captioner.stream(
        (example.path for example in examples), beam=beam, max_length=max_length, batch_size=batch_size
    )
    progress = track(stream, total=len(examples), doing="captioning", unit="images")
    for example, result in zip(examples, progress, strict=True):
        if isinstance(result, ImageError):
            console.print(f"captioner: {result}", markup=False)
        else:
            captions[example.image_id] = result.text
    if not captions:
        raise CaptionerError(f"none of the {len(examples)} images of {annotations} could be read")
    if results:
        write_results(results, captions)
    missing = len(examples) - len(captions)
    if missing:
        console.print(f"captioner: {missing} of {len(examples)} images could not be read and are not scored")
    references = {example.image_id: example.captions for example in examples if example.image_id in captions}
    return Scorer(references).score(captions), missing > 0
