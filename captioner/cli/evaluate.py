"""Score a model, or captions that are already there."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from captioner.captions import Caption, ImageId
from captioner.config.schema import DecodingConfig, DeviceName, PrecisionName
from captioner.console import console, readable
from captioner.data.datasets import Example, load_examples, load_references
from captioner.errors import CaptionerError, UsageError
from captioner.metrics.java import JavaName, check_java
from captioner.metrics.scorer import Scorer, Scores, check_images
from captioner.report.build import check_report, report_evaluation
from captioner.results.files import (
    check_destination,
    check_scores_file,
    read_results,
    write_results,
    write_scores,
)

if TYPE_CHECKING:
    from captioner.inference.captioner import Captioner


def score_results(
    results: Path,
    annotations: Path,
    *,
    split: str | None = None,
    seen: Path | None = None,
    seen_split: str | None = None,
    java: Sequence[JavaName] = (),
    allow_partial: bool = False,
    as_json: bool = False,
) -> None:
    """Score a results file, print the scores, and note them in the scores.json beside it.

    Args:
        results: the file.
        annotations: where the references are, for all formats that `load_examples` reads.
        split: which of its splits.
        seen: the annotations of training, to tell which captions are new.
        seen_split: which of its splits.
        java: metrics that Java computes besides.
        allow_partial: score what is there, though images of the annotations have no caption.
        as_json: print one object instead of a table.

    Raises:
        UsageError: a file is broken, or the results are not of these images.
    """
    check_scores_file(results)
    captions = read_results(results)
    references = load_references(annotations, split)
    check_images(references, captions, allow_partial=allow_partial)
    _tell(
        _score(references, captions, seen=_load_captions(seen, seen_split), java=java),
        results,
        as_json=as_json,
    )


def evaluate_model(
    models: Sequence[Path],
    annotations: Path,
    *,
    images: Path | None = None,
    split: str | None = None,
    seen: Path | None = None,
    seen_split: str | None = None,
    java: Sequence[JavaName] = (),
    results: Path | None = None,
    report: Path | None = None,
    explain: bool = False,
    decoding: Mapping[str, object] | None = None,
    batch_size: int = 16,
    device: DeviceName = "auto",
    precision: PrecisionName = "auto",
    as_json: bool = False,
) -> int:
    """Caption every image of the annotation file, write the results, and score them as `score_results` does.

    Captions less confident than `min_confidence` are left out, as are images that cannot be read.

    Returns:
        How many images could not be read.

    Raises:
        CaptionerError: no image could be read.
        UsageError: the annotations are broken, or images are missing.
    """
    if explain and not report:
        raise UsageError("--explain is shown by --report: add it")
    if results:
        check_scores_file(results)
        check_destination(results)
    if report:
        check_report(report)
    check_java(java)
    examples = load_examples(annotations, images, split)
    training = _load_captions(seen, seen_split)
    from captioner.inference.captioner import (
        Captioner,
    )  # imports torch, which a wrong path should not wait for

    captioner = Captioner.from_pretrained(*models, device=device, precision=precision)
    asked = captioner.decoding(decoding)
    captioned = _caption(captioner, examples, asked, explain=explain, batch_size=batch_size)
    captions = {
        image: caption.text for image, caption in captioned.items() if not caption.abstained
    }
    if abstained := len(captioned) - len(captions):
        console.print(
            f"captioner: {abstained:,} captions are left out: their confidence is too low"
        )
    if not captions:
        reason = (
            "no caption is as sure as --min-confidence asks: lower it"
            if captioned
            else "none could be read"
        )
        raise CaptionerError(f"of the {len(examples)} images of {annotations}, {reason}")
    if results:
        write_results(results, captions)
    references = {example.image_id: example.captions for example in examples}
    scores = _score(references, captions, seen=training, java=java)
    _tell(scores, results, as_json=as_json)
    if report:
        report_evaluation(
            report,
            examples,
            captioned,
            scores,
            annotations=annotations,
            models=models,
            config=captioner.config,
            asked=asked,
        )
    return len(examples) - len(captioned)


def _load_captions(annotations: Path | None, split: str | None) -> list[str] | None:
    """Read all captions of the annotations, whatever their images."""
    if annotations is None:
        return None
    return [
        caption for captions in load_references(annotations, split).values() for caption in captions
    ]


def _caption(
    captioner: Captioner,
    examples: Sequence[Example],
    asked: DecodingConfig,
    *,
    explain: bool,
    batch_size: int,
) -> dict[ImageId, Caption]:
    """Caption the images that can be read, and name the others on stderr."""
    paths = (example.path for example in examples)
    stream = captioner.stream(paths, decoding=asked, explain=explain, batch_size=batch_size)
    return {
        example.image_id: caption
        for example, caption in readable(examples, stream, doing="captioning")
    }


def _score(
    references: Mapping[ImageId, Sequence[str]],
    captions: Mapping[ImageId, str],
    *,
    seen: Sequence[str] | None,
    java: Sequence[JavaName],
) -> Scores:
    """Score the captions there are against the references of those images only, on which CIDEr depends."""
    there = {image: said for image, said in references.items() if image in captions}
    if missing := len(references) - len(there):
        console.print(
            f"captioner: {missing:,} of {len(references):,} images have no caption and are not scored"
        )
    return Scorer(there, subset_of=len(references), seen=seen, java=java).score(captions)


def _tell(scores: Scores, results: Path | None, *, as_json: bool) -> None:
    """Print the scores, and only then note them beside the results: where that fails, they are not lost."""
    typer.echo(json.dumps(scores.as_dict()) if as_json else scores.table())
    if results:
        write_scores(results, scores)
