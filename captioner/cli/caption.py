"""`captioner caption`: caption image files."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from captioner.captions import Caption, ImageId
from captioner.cli.options import (
    ExplainOption,
    JsonOption,
    ModelsOption,
    ReportOption,
    check_distinct,
    check_outputs,
    load_captioner,
    with_options,
)
from captioner.config.schema import DecodingConfig, InferenceConfig
from captioner.console import console, one_line, skip_unreadable
from captioner.data.images import find_images
from captioner.errors import UsageError

if TYPE_CHECKING:
    from captioner.results.resumable import ResumableResults

EXAMPLE = "captioner caption photo.jpg holiday/ 'archive/*.png' --output captions.json"

OutputOption = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="Also write COCO results (.json) or JSON lines (.jsonl); after an interruption, "
        "the same command continues from FILE.part.",
        show_default=False,
    ),
]


@partial(with_options, reads="image")
def caption(
    paths: Annotated[
        list[str],
        typer.Argument(
            metavar="PATH...", help="Image files, folders and globs.", show_default=False
        ),
    ],
    decoding: dict[str, object],
    inference: InferenceConfig,
    model: ModelsOption = None,
    output: OutputOption = None,
    report: ReportOption = None,
    explain: ExplainOption = False,
    as_json: JsonOption = False,
) -> None:
    """Caption images.

    Prints each path and its caption, separated by a tab. A third column says `unsure` if the
    confidence is below the threshold of `captioner calibrate`. Settings you leave out keep the
    model folder's defaults.
    """
    if explain and not (report or as_json):
        raise UsageError("--explain has no effect without --report or --json: add one of them")
    check_distinct(output=output, report=report)
    check_outputs(output, report)
    files = find_images(paths)
    captioner = load_captioner(model, inference)
    settings = captioner.decoding_config(decoding)
    captioned: dict[Path, Caption] = {}  # for a report only: it would grow with the images
    num_read = num_abstained = 0
    with _open_results(output, files, model, settings, resume=not report) as results:
        remaining = _remaining(files, results.captions if results else {})
        stream = captioner.stream(
            remaining, decoding=settings, explain=explain, batch_size=inference.batch_size
        )
        for file, generated in skip_unreadable(remaining, stream, doing="captioning"):
            _print(file, generated, several=settings.captions > 1, as_json=as_json)
            num_read += 1
            num_abstained += generated.abstained
            if results and not generated.abstained:
                results.add(str(file), generated.text)
            if report:
                captioned[file] = generated
    if report:
        from captioner.report.build import report_captions

        cropped = captioner.crops
        report_captions(report, captioned, model or [], settings, cropped=cropped)
    _finish(len(files), num_abstained=num_abstained, num_failed=len(remaining) - num_read)


def _open_results(
    output: Path | None,
    files: Sequence[Path],
    models: Sequence[Path] | None,
    decoding: DecodingConfig,
    *,
    resume: bool,
) -> AbstractContextManager[ResumableResults | None]:
    """Return the results to add captions to, with those of an interrupted run; None: no output."""
    if output is None:
        return nullcontext()
    from captioner.models.folder import BUNDLED, weights_digest
    from captioner.results.resumable import resumable_results

    provenance = {
        "weights": [weights_digest(folder) for folder in models or [BUNDLED]],
        "decoding": decoding.to_json(),
    }
    images = [str(file) for file in files]
    return resumable_results(output, images, provenance=provenance, resume=resume)


def _remaining(files: Sequence[Path], captions: Mapping[ImageId, str]) -> list[Path]:
    """Return the files that an interrupted run did not caption, and report the number of others."""
    remaining = [file for file in files if str(file) not in captions]
    if num_done := len(files) - len(remaining):
        console.print(
            f"captioner: an interrupted run captioned {num_done:,} of {len(files):,} images: "
            "continuing"
        )
    return remaining


def _finish(num_files: int, *, num_abstained: int, num_failed: int) -> None:
    """Report how many images have no caption; raise `Exit` if some cannot be read."""
    if num_abstained:
        console.print(
            f"captioner: {num_abstained} of {num_files} captions are not shown: low confidence"
        )
    if num_failed:
        console.print(f"captioner: {num_failed} of {num_files} images could not be read")
        raise typer.Exit(3)


def _print(file: Path, caption: Caption, *, several: bool, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps({"image": str(file), **_to_json(caption, several=several)}))
        return
    for each in (caption, *caption.others):
        text = "" if each.abstained else each.text
        unsure = "\tunsure" if each.sure is False and not each.abstained else ""
        typer.echo(f"{one_line(file)}\t{text}{unsure}")


def _to_json(caption: Caption, *, several: bool = False) -> dict[str, Any]:
    """Return a caption as JSON values; with `several`, all of the image's are in "captions"."""
    words = [
        {"word": word.text, "log_prob": word.log_prob}
        | _without_none(confidence=word.confidence, heat=word.heat)
        for word in caption.words
    ]
    captions = [_to_json(each) for each in (caption, *caption.others)] if several else None
    return {
        "caption": None if caption.abstained else caption.text,
        "log_prob": caption.log_prob,
        **_without_none(
            confidence=caption.confidence, sure=caption.sure, explanation=caption.explanation
        ),
        "words": [] if caption.abstained else words,
        **_without_none(captions=captions),
    }


def _without_none(**values: object) -> dict[str, object]:
    return {name: value for name, value in values.items() if value is not None}
