"""Caption files, and write down what was said."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import typer

from captioner.captions import Caption
from captioner.config.loading import to_json
from captioner.config.schema import DeviceName, PrecisionName
from captioner.console import console, one_line, readable
from captioner.data.images import find_images
from captioner.errors import UsageError
from captioner.models.folder import weights_digest
from captioner.report.build import check_report, report_captions
from captioner.results.files import check_destination
from captioner.results.resumable import resumable_results


def caption_files(
    paths: Sequence[str],
    *,
    models: Sequence[Path] = (),
    decoding: Mapping[str, object] | None = None,
    batch_size: int = 16,
    device: DeviceName = "auto",
    precision: PrecisionName = "auto",
    output: Path | None = None,
    report: Path | None = None,
    explain: bool = False,
    as_json: bool = False,
) -> int:
    """Print the captions of every image as soon as they are known; name those that cannot be read on stderr.

    With `output`, an interrupted run is gone on with, unless there is to be a report: that needs every caption's words.

    Returns:
        How many images could not be read.
    """
    if explain and not (report or as_json):
        raise UsageError("--explain is shown by --report or --json: add one of them")
    if output:
        check_destination(output)
    if report:
        check_report(report)
    files = find_images(paths)
    from captioner.inference.captioner import (
        Captioner,
    )  # imports torch, which a wrong path should not wait for

    captioner = Captioner.from_pretrained(*models, device=device, precision=precision)
    asked = captioner.decoding(decoding)
    captioned: dict[Path, Caption] = {}  # only for a report: they would grow with the images
    unsure = read = 0
    made_by = {
        "weights": [weights_digest(model) for model in models or (None,)],
        "decoding": to_json(asked),
    }
    with resumable_results(
        output, [str(file) for file in files], made_by=made_by, go_on=not report
    ) as results:
        left = [file for file in files if str(file) not in results.captions]
        if there := len(files) - len(left):
            console.print(
                f"captioner: an interrupted run captioned {there:,} of {len(files):,} images: going on"
            )
        stream = captioner.stream(left, decoding=asked, explain=explain, batch_size=batch_size)
        for file, caption in readable(left, stream, doing="captioning"):
            _show(file, caption, several=asked.captions > 1, as_json=as_json)
            read += 1
            unsure += caption.abstained
            if not caption.abstained:
                results.add(str(file), caption.text)
            if report:
                captioned[file] = caption
    if report:
        report_captions(report, captioned, models=models, config=captioner.config, asked=asked)
    if unsure:
        console.print(
            f"captioner: {unsure} of {len(files)} captions are not shown: their confidence is too low"
        )
    if failed := len(left) - read:
        console.print(
            f"captioner: {failed} of {len(files)} images could not be read, the others are captioned"
        )
    return failed


def _show(file: Path, caption: Caption, *, several: bool, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps({"image": str(file), **as_values(caption, several=several)}))
        return
    for one in (caption, *caption.others):
        typer.echo(f"{one_line(file)}\t{'' if one.abstained else one.text}")


def as_values(caption: Caption, *, several: bool = False) -> dict[str, Any]:
    """Give a caption as JSON holds it; with `several`, all captions of the image under "captions"."""
    values: dict[str, Any] = {
        "caption": None if caption.abstained else caption.text,
        "log_prob": caption.log_prob,
    }
    if caption.confidence is not None:
        values["confidence"] = caption.confidence
    if caption.explanation is not None:
        values["explanation"] = caption.explanation
    values["words"] = (
        []
        if caption.abstained
        else [
            {"word": word.text, "log_prob": word.log_prob}
            | ({} if word.confidence is None else {"confidence": word.confidence})
            | ({} if word.heat is None else {"heat": word.heat})
            for word in caption.words
        ]
    )
    if several:
        values["captions"] = [as_values(one) for one in (caption, *caption.others)]
    return values
