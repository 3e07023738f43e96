"""`captioner caption`: caption image files."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
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
from captioner.console import console, one_line, print_results, skip_unreadable
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
IdsOption = Annotated[
    Path | None,
    typer.Option(
        "--annotations",
        metavar="FILE",
        help="Caption the images that this file lists, such as image_info_test2017.json, and "
        "name them by its ids.",
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
    annotations: IdsOption = None,
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
    found = find_images(paths)
    for problem in found.problems:
        console.print(f"captioner: {one_line(problem)}", markup=False)
    ids = _image_ids(found.files, annotations)
    captioner = load_captioner(model, inference)
    settings = captioner.decoding_config(decoding)
    captioned: dict[Path, Caption] = {}  # for a report only: it would grow with the images
    num_read = num_abstained = 0
    with print_results(files=bool(output or report)) as print_line:
        with _open_results(output, ids, model, settings, resume=not report) as results:
            remaining = _remaining(ids, results.captions if results else {})
            stream = captioner.stream(
                remaining, decoding=settings, explain=explain, batch_size=inference.batch_size
            )
            for file, generated in skip_unreadable(remaining, stream, doing="captioning"):
                named = {"image": str(file), **({"image_id": ids[file]} if annotations else {})}
                several = settings.captions > 1
                _print(print_line, named, generated, several=several, as_json=as_json)
                num_read += 1
                num_abstained += generated.abstained
                if results and not generated.abstained:
                    results.add(ids[file], generated.shown)
                if report:
                    captioned[file] = generated
        if report:
            from captioner.report.build import report_captions

            cropped = captioner.crops
            report_captions(report, captioned, model or [], settings, cropped=cropped)
    _finish(
        len(ids),
        num_abstained=num_abstained,
        num_failed=len(remaining) - num_read,
        num_missing=len(found.problems),
    )


def _open_results(
    output: Path | None,
    ids: Mapping[Path, ImageId],
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
    return resumable_results(output, list(ids.values()), provenance=provenance, resume=resume)


def _image_ids(files: Sequence[Path], annotations: Path | None) -> dict[Path, ImageId]:
    """Return the id of each image: its path, or that of the annotations, which may lack images.

    Raises:
        UsageError: the annotations lack all images, or name an id twice.
    """
    if annotations is None:
        return {file: str(file) for file in files}
    from captioner.data.image_ids import load_image_ids

    known = load_image_ids(annotations)
    found = {file: image for file in files if (image := known.find(file)) is not None}
    if not found:
        raise UsageError(f"{annotations} lists none of these images, such as {files[0].name}")
    names: dict[ImageId, Path] = {}
    for file, image in found.items():
        if (other := names.setdefault(image, file)) != file:
            raise UsageError(f"{other} and {file} are both image {image!r}: name one of them")
    for number, what in (
        (len(files) - len(found), f"are not in {annotations} and are left out"),
        (len(known.files) - len(found), f"of {annotations} are not among these files"),
    ):
        if number:
            console.print(f"captioner: {number:,} images {what}", markup=False)
    return found


def _remaining(
    ids: Mapping[Path, ImageId], captions: Mapping[ImageId, str | Sequence[str]]
) -> list[Path]:
    """Return the files that an interrupted run did not caption, and report the number of others."""
    remaining = [file for file, image in ids.items() if image not in captions]
    if num_done := len(ids) - len(remaining):
        console.print(
            f"captioner: an interrupted run captioned {num_done:,} of {len(ids):,} images: "
            "continuing"
        )
    return remaining


def _finish(num_files: int, *, num_abstained: int, num_failed: int, num_missing: int) -> None:
    """Report how many images have no caption; raise `Exit` if some cannot be read or found."""
    if num_abstained:
        console.print(
            f"captioner: {num_abstained} of {num_files} captions are not shown: low confidence"
        )
    if num_failed:
        console.print(f"captioner: {num_failed} of {num_files} images could not be read")
    if num_missing:
        paths = "path" if num_missing == 1 else "paths"
        console.print(f"captioner: {num_missing} {paths} could not be found or listed")
    if num_failed or num_missing:
        raise typer.Exit(3)


def _print(
    print_line: Callable[[str], None],
    named: Mapping[str, ImageId],
    caption: Caption,
    *,
    several: bool,
    as_json: bool,
) -> None:
    if as_json:
        print_line(json.dumps({**named, **_to_json(caption, several=several)}))
        return
    for each in (caption, *caption.others):
        text = "" if each.abstained else each.text
        unsure = "\tunsure" if each.sure is False and not each.abstained else ""
        print_line(f"{one_line(named['image'])}\t{text}{unsure}")


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
