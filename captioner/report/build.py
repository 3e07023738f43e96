"""Turn captions, and what they scored, into a page to look at."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from captioner.captions import Caption, ImageId
from captioner.config.loading import to_json
from captioner.config.schema import DecodingConfig, ModelConfig
from captioner.console import track
from captioner.data.datasets import Example
from captioner.errors import UsageError
from captioner.metrics.scorer import NAMES, Scores
from captioner.metrics.signature import own_version
from captioner.report.page import Entry, Figure, write_report
from captioner.storage import check_new_file

OF_IMAGES = ("CIDEr", "METEOR", "ROUGE_L", "Bleu_4")
"""Metrics shown of each image; the page opens with the first."""


def check_report(path: Path) -> None:
    """Refuse a page that could not be written, before any captioning is done.

    Raises:
        UsageError: its name does not end in .html, or its folder is not there.
    """
    if path.suffix not in (".html", ".htm"):
        raise UsageError(f"{path}: a report is a page; name it .html")
    check_new_file(path)


def report_captions(
    path: Path,
    captioned: Mapping[Path, Caption],
    *,
    models: Sequence[Path],
    config: ModelConfig,
    asked: DecodingConfig,
) -> None:
    """Write the page of images that nobody has described."""
    cropped = config.encoder.transform == "crop"
    entries = [
        Entry(str(file), file, caption, cropped=cropped)
        for file, caption in captioned.items()
        if not caption.abstained
    ]
    write_report(
        path, _tracked(entries), title=f"{len(entries):,} captions", about=_about(models, asked)
    )


def report_evaluation(
    path: Path,
    examples: Sequence[Example],
    captioned: Mapping[ImageId, Caption],
    scores: Scores,
    *,
    annotations: Path,
    models: Sequence[Path],
    config: ModelConfig,
    asked: DecodingConfig,
) -> None:
    """Write the page of images with their references and scores."""

    def entry(example: Example) -> Entry:
        alone = {NAMES[metric]: scores.per_image[metric][example.image_id] for metric in OF_IMAGES}
        caption = captioned[example.image_id]
        cropped = config.encoder.transform == "crop"
        return Entry(example.path.name, example.path, caption, example.captions, alone, cropped)

    figures = [
        Figure(NAMES[metric], 100 * score, *(100 * end for end in scores.intervals[metric]))
        for metric, score in scores.figures.items()
    ]
    people, scored = scores.people.shown, set(scores.images)
    write_report(
        path,
        _tracked([entry(example) for example in examples if example.image_id in scored]),
        title=f"{annotations.name}, {len(scores.images):,} images",
        about={**_about(models, asked), "signature": scores.signature},
        figures=figures,
        facts={
            name: f"{text} (people {people[name]})" for name, text in scores.diversity.shown.items()
        },
    )


def _tracked(entries: Sequence[Entry]) -> Iterator[Entry]:
    return track(entries, total=len(entries), doing="writing the report", unit="images")


def _about(models: Sequence[Path], asked: DecodingConfig) -> dict[str, str]:
    """Say what captioned, and how: the kind of search, and every setting that is not the usual one."""
    usual = to_json(DecodingConfig())
    unusual = {
        name: value
        for name, value in to_json(asked).items()
        if value != usual[name] and name != "method"
    }
    first = "sampling" if asked.method == "sample" else f"beam {unusual.pop('beam', asked.beam)}"
    return {
        "model": ", ".join(map(str, models)) or "bundled",
        "decoding": ", ".join([first, *(f"{name} {value}" for name, value in unusual.items())]),
        "captioner": own_version(),
    }
