"""Evaluate captions with COCO's metrics: a model's, or those of a results file."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from captioner.captions import Caption, ImageId
from captioner.config.schema import INFERENCE, DecodingConfig
from captioner.console import console
from captioner.data.datasets import Example, load_examples, load_references
from captioner.data.image_ids import ImageIds, load_image_ids, name_by_ids
from captioner.devices import BackendName, DeviceName, PrecisionName
from captioner.errors import CaptionerError, UsageError, parameter, summarize
from captioner.metrics.java import JavaMetricName, check_java_metrics
from captioner.metrics.scorer import Scorer, Scores, check_images
from captioner.progress import skip_unreadable
from captioner.results.files import read_results, write_results

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
    backend: BackendName = INFERENCE.backend,
) -> Scores:
    """Score captions with COCO's metrics: `results`, or the captions that `model` generates.

    Args:
        annotations: the references, in any format that captioner reads.
        results: a results file, or a caption for each image id or path.
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
        backend: with what `model` computes: see `Captioner.from_pretrained`.

    Raises:
        CaptionerError: no image can be read.
        UsageError: a file has errors, or the results do not fit the annotations.
    """
    if results is None:
        check_java_metrics(java)
        examples = load_examples(Path(annotations), Path(images) if images else None, split)
        from captioner.inference.captioner import Captioner  # imports torch

        if not isinstance(model, Captioner):
            folder = "bundled" if model is None else model
            model = Captioner.from_pretrained(
                folder, device=device, precision=precision, backend=backend
            )
        return evaluate_model(
            model,
            examples,
            decoding,
            batch_size=batch_size,
            training_captions=training_captions,
            java=java,
        )[1]
    if model is not None:
        raise UsageError("results hold captions already: leave out either results or model")
    references = load_references(Path(annotations), split)
    captions = fit_to_references(
        results if isinstance(results, Mapping) else read_results(results),
        references,
        load_ids=lambda: load_image_ids(Path(annotations), split),
        allow_partial=allow_partial,
    )
    return scorer_of_captioned(
        references, captions, doing="scored", training_captions=training_captions, java=java
    ).score(captions)


def fit_to_references(
    captions: Mapping[ImageId, str],
    references: Mapping[ImageId, Sequence[str]],
    *,
    load_ids: Callable[[], ImageIds],
    allow_partial: bool = False,
) -> Mapping[ImageId, str]:
    """Return the captions of the images that have references, by the ids of these.

    Captions may be named by the paths of their images, as `captioner caption --output` does; only
    then are the ids of the annotated images loaded. With `allow_partial`, the captions of annotated
    images without references are left out.

    Raises:
        UsageError: the captions do not belong to the annotated images; see `check_images`.
    """
    if not captions.keys() <= references.keys():
        ids = load_ids()
        captions = name_by_ids(captions, ids)
        annotated = ids.files.keys() - references.keys()
        unscored = [image for image in captions if image in annotated]
        if unscored:
            found = f"{summarize(unscored, 'image')} of the annotations without a caption there"
            if not allow_partial:
                raise UsageError(
                    f"the results have {found}: leave these out, "
                    f"or set {parameter('allow_partial')} to score the others"
                )
            console.print(f"captioner: left out: {found}", markup=False)
            captions = {image: captions[image] for image in captions if image not in annotated}
    check_images(references, captions, allow_partial=allow_partial)
    return captions


def evaluate_model(
    captioner: Captioner,
    examples: Sequence[Example],
    decoding: DecodingConfig | Mapping[str, object] | None,
    *,
    explain: bool = False,
    batch_size: int,
    results: Path | None = None,
    training_captions: Sequence[str] | None,
    java: Sequence[JavaMetricName],
) -> tuple[dict[ImageId, Caption], Scores]:
    """Return the caption of each image that can be read, and their scores; report the others.

    Captions that the model abstained from are not scored. The others are written to `results`
    before they are scored.

    Raises:
        CaptionerError: no caption is left to score.
    """
    paths = [example.path for example in examples]
    stream = captioner.stream(paths, decoding=decoding, explain=explain, batch_size=batch_size)
    readable = skip_unreadable(examples, stream, doing="captioning")
    captioned = {example.image_id: caption for example, caption in readable}
    captions = _shown(captioned)
    if results:
        write_results(results, {image: captioned[image].shown for image in captions})
    references = {example.image_id: example.captions for example in examples}
    scorer = scorer_of_captioned(
        references, captions, doing="scored", training_captions=training_captions, java=java
    )
    return captioned, scorer.score(captions)


def _shown(captioned: Mapping[ImageId, Caption]) -> dict[ImageId, str]:
    """Return the texts of the captions, without those that the model abstained from."""
    if not captioned:
        raise CaptionerError("none of the images can be read: check the image files")
    shown = {image: caption.text for image, caption in captioned.items() if not caption.abstained}
    if abstained := len(captioned) - len(shown):
        console.print(f"captioner: {abstained:,} captions are left out: low confidence")
    if not shown:
        raise CaptionerError(
            f"every caption has a confidence below {parameter('min_confidence')}: lower it"
        )
    return shown


def scorer_of_captioned(
    references: Mapping[ImageId, Sequence[str]],
    *captions: Mapping[ImageId, str],
    doing: str,
    training_captions: Sequence[str] | None = None,
    java: Sequence[JavaMetricName] = (),
) -> Scorer:
    """Return the scorer of the images that all `captions` have; print how many others exist.

    CIDEr depends on the set of references, so those of other images must be left out.
    """
    selected = {
        image: texts
        for image, texts in references.items()
        if all(image in each for each in captions)
    }
    if missing := len(references) - len(selected):
        console.print(
            f"captioner: {missing:,} of {len(references):,} images "
            f"have no caption and are not {doing}"
        )
    return Scorer(
        selected, subset_of=len(references), training_captions=training_captions, java=java
    )
