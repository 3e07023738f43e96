"""Evaluate captions with COCO's metrics: a model's, or those of a results file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from captioner.captions import Caption, ImageId
from captioner.config.schema import INFERENCE, DecodingConfig
from captioner.console import console, skip_unreadable
from captioner.data.datasets import Example, load_examples, load_references
from captioner.devices import DeviceName, PrecisionName
from captioner.errors import CaptionerError, UsageError
from captioner.metrics.java import JavaMetricName, check_java_metrics
from captioner.metrics.scorer import Scorer, Scores, check_images
from captioner.results.files import read_results

if TYPE_CHECKING:
    from captioner.inference.captioner import Captioner


def evaluate(
    annotations: str | Path,
    *,
    results: str | Path | Mapping[ImageId, str] | None = None,
    model: str | Path | Captioner | None = None,
    images: str | Path | None = None,
    split: str | None = None,
    decoding: DecodingConfig | Mapping[str, object] | None = None,
    allow_partial: bool = False,
    training_captions: Sequence[str] | None = None,
    java: Sequence[JavaMetricName] = (),
    batch_size: int = INFERENCE.batch_size,
    device: DeviceName = INFERENCE.device,
    precision: PrecisionName = INFERENCE.precision,
) -> Scores:
    """Score captions with COCO's metrics: `results`, or the captions that `model` generates.

    Args:
        annotations: the references, in any format that captioner reads.
        results: a results file, or a caption for each image id.
        model: a model folder or a `Captioner`; by default the bundled model.
        images: the folder of the images, if it is not beside the annotations.
        split: the split of the annotations.
        decoding: settings that replace the model's, as in {"beam": 5}.
        allow_partial: accept `results` that lack some of the images.
        training_captions: the captions of the training data, to count unseen captions.
        java: metrics that Java computes in addition.
        batch_size: images per batch, for `model`.
        device: where `model` computes.
        precision: with which precision `model` computes.

    Raises:
        CaptionerError: no image can be read.
        UsageError: a file has errors, or the results do not fit the annotations.
    """
    if results is not None:
        if model is not None:
            raise UsageError("results hold captions already: leave out either results or model")
        captions = results if isinstance(results, Mapping) else read_results(results)
        references: Mapping[ImageId, Sequence[str]] = load_references(Path(annotations), split)
        check_images(references, captions, allow_partial=allow_partial)
    else:
        check_java_metrics(java)
        examples = load_examples(Path(annotations), Path(images) if images else None, split)
        captioner = _load(model, device, precision)
        captioned = caption_examples(captioner, examples, decoding, batch_size=batch_size)
        captions = shown_captions(captioned)
        references = {example.image_id: example.captions for example in examples}
    return score_captions(references, captions, training_captions=training_captions, java=java)


def caption_examples(
    captioner: Captioner,
    examples: Sequence[Example],
    decoding: DecodingConfig | Mapping[str, object] | None = None,
    *,
    explain: bool = False,
    batch_size: int = INFERENCE.batch_size,
) -> dict[ImageId, Caption]:
    """Return the caption of each image that can be read; report the others on stderr."""
    paths = (example.path for example in examples)
    captions = captioner.stream(paths, decoding=decoding, explain=explain, batch_size=batch_size)
    return {
        example.image_id: caption
        for example, caption in skip_unreadable(examples, captions, doing="captioning")
    }


def shown_captions(captioned: Mapping[ImageId, Caption]) -> dict[ImageId, str]:
    """Return the texts of the captions, without those that the model abstained from.

    Raises:
        CaptionerError: none is left.
    """
    if not captioned:
        raise CaptionerError("none of the images can be read: check the image files")
    shown = {image: caption.text for image, caption in captioned.items() if not caption.abstained}
    if abstained := len(captioned) - len(shown):
        console.print(f"captioner: {abstained:,} captions are left out: low confidence")
    if not shown:
        raise CaptionerError(
            "every caption has a confidence below min_confidence: lower it",
            parameters=["min_confidence"],
        )
    return shown


def score_captions(
    references: Mapping[ImageId, Sequence[str]],
    captions: Mapping[ImageId, str],
    *,
    training_captions: Sequence[str] | None = None,
    java: Sequence[JavaMetricName] = (),
) -> Scores:
    """Score the captioned images. CIDEr depends on the set, so other references are left out."""
    captioned = {image: texts for image, texts in references.items() if image in captions}
    if missing := len(references) - len(captioned):
        console.print(
            f"captioner: {missing:,} of {len(references):,} images "
            "have no caption and are not scored"
        )
    scorer = Scorer(
        captioned, subset_of=len(references), training_captions=training_captions, java=java
    )
    return scorer.score(captions)


def _load(
    model: str | Path | Captioner | None, device: DeviceName, precision: PrecisionName
) -> Captioner:
    from captioner.inference.captioner import Captioner  # imports torch

    if isinstance(model, Captioner):
        return model
    folders = [] if model is None else [model]
    return Captioner.from_pretrained(*folders, device=device, precision=precision)
