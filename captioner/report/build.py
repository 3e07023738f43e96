"""Reports of the command line: captions of images, with or without references and scores."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from captioner.captions import Caption, ImageId
from captioner.config.schema import DecodingConfig
from captioner.data.datasets import Example
from captioner.errors import UsageError
from captioner.metrics.meteor import FULL_NAME, PARTIAL_NAME
from captioner.metrics.scorer import METRIC_LABELS, Scores
from captioner.metrics.signature import captioner_version
from captioner.progress import track
from captioner.report.page import ReportEntry, write_report
from captioner.storage import check_writable

IMAGE_METRICS = ("CIDEr", FULL_NAME, PARTIAL_NAME, "ROUGE_L", "Bleu_4")  # a report has one METEOR
"""The metrics that the report shows for each image. It opens sorted by the first."""

GENERATOR = b'<meta name="generator" content="captioner">'
"""Near the beginning of every page: what has it may be replaced by another page."""


def check_report(path: Path) -> None:
    """Raise an error if a report cannot be written to `path`, before any image is captioned.

    Raises:
        UsageError: the file cannot be written, its name does not end in .html, or it exists and
            is not a report, or cannot be read to see that.
    """
    if path.suffix.lower() not in (".html", ".htm"):
        raise UsageError(f"{path}: a report is an HTML page: end its name in .html")
    check_writable(path)
    if path.is_file() and path.stat().st_size:
        try:
            with path.open("rb") as file:
                is_report = GENERATOR in file.read(1000)
        except OSError as error:
            raise UsageError(
                f"{path} cannot be read: {error.strerror or error}: choose another name"
            ) from None
        if not is_report:
            raise UsageError(
                f"{path} exists and is not a report, or was written by an older version: "
                "choose another name, or delete it first"
            )


def report_captions(
    path: Path,
    captioned: Mapping[Path, Caption],
    models: Sequence[str | Path],
    decoding: DecodingConfig,
    *,
    cropped: bool,
) -> None:
    """Write a report of images without references.

    Raises:
        CaptionerError: the file cannot be written.
    """
    entries = [
        ReportEntry(str(file), file, caption, cropped=cropped)
        for file, caption in captioned.items()
        if not caption.abstained
    ]
    title = f"{len(entries):,} captions"
    write_report(path, _tracked(entries), title=title, about=describe(models, decoding))


def report_evaluation(
    path: Path,
    examples: Sequence[Example],
    captioned: Mapping[ImageId, Caption],
    scores: Scores,
    *,
    annotations: Path,
    models: Sequence[str | Path],
    decoding: DecodingConfig,
    cropped: bool,
) -> None:
    """Write a report of the scored images, with their references and scores.

    Raises:
        CaptionerError: the file cannot be written.
    """
    scored = set(scores.images)
    entries = [
        ReportEntry(
            example.path.name,
            example.path,
            captioned[example.image_id],
            references=example.captions,
            scores={
                METRIC_LABELS[metric]: scores.per_image[metric][example.image_id]
                for metric in IMAGE_METRICS
                if metric in scores.metrics
            },
            cropped=cropped,
        )
        for example in examples
        if example.image_id in scored
    ]
    figures = [
        (METRIC_LABELS[name], 100 * score, 100 * low, 100 * high)
        for (name, score), (low, high) in zip(
            scores.metrics.items(), scores.intervals.values(), strict=True
        )
    ]
    references = scores.reference_diversity.formatted
    write_report(
        path,
        _tracked(entries),
        title=f"{annotations.name}, {len(scores.images):,} images",
        about={**describe(models, decoding), "signature": scores.signature},
        figures=figures,
        facts={
            name: f"{value} (references {references[name]})"
            for name, value in scores.diversity.formatted.items()
        },
    )


def _tracked(entries: Sequence[ReportEntry]) -> Iterator[ReportEntry]:
    return track(entries, total=len(entries), doing="writing the report", unit="images")


def describe(models: Sequence[str | Path], decoding: DecodingConfig) -> dict[str, str]:
    """Return the model, the version, and the decoding settings that differ from the defaults."""
    defaults = DecodingConfig().to_json()
    changed = {
        name: value
        for name, value in decoding.to_json().items()
        if value != defaults[name] and name != "method"
    }
    sampled = decoding.method == "sample"
    method = "sampling" if sampled else f"beam {changed.pop('beam', decoding.beam)}"
    return {
        "model": ", ".join(map(str, models)) or "bundled",
        "decoding": ", ".join([method, *(f"{name} {value}" for name, value in changed.items())]),
        "captioner": captioner_version(),
    }
