"""Caption files, and write down what was said."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import typer

from captioner.captions import Caption
from captioner.commands.report import check_report, report_captions
from captioner.config import DeviceName, PrecisionName
from captioner.console import console, readable
from captioner.data.images import find_images
from captioner.errors import UsageError
from captioner.metrics.results import check_destination, write_results


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
    from captioner.inference import Captioner  # imports torch, which a wrong path should not wait for

    captioner = Captioner.from_pretrained(*models, device=device, precision=precision)
    asked = captioner.decoding(decoding)
    captioned: dict[Path, Caption] = {}
    stream = captioner.stream(files, decoding=asked, explain=explain, batch_size=batch_size)
    for file, result in readable(files, stream, doing="captioning"):
        captioned[file] = result
        if as_json:
            typer.echo(json.dumps({"image": str(file), **as_values(result, several=asked.captions > 1)}))
        else:
            for caption in (result, *result.others):
                typer.echo(f"{file}\t{'' if caption.silent else caption.text}")
    shown: dict[int | str, str] = {str(file): caption.text for file, caption in captioned.items() if not caption.silent}
    if output:
        write_results(output, shown)
    if report:
        report_captions(report, captioned, models=models, config=captioner.config, asked=asked)
    if silent := len(captioned) - len(shown):
        console.print(f"captioner: {silent} of {len(files)} captions are not shown: their confidence is too low")
    if failed := len(files) - len(captioned):
        console.print(f"captioner: {failed} of {len(files)} images could not be read, the others are captioned")
    return failed


def as_values(caption: Caption, *, several: bool = False) -> dict[str, Any]:
    """Give a caption as JSON holds it; with `several`, all captions of the image under "captions"."""
    values: dict[str, Any] = {"caption": None if caption.silent else caption.text, "log_prob": caption.log_prob}
    if caption.confidence is not None:
        values["confidence"] = caption.confidence
    if caption.explanation is not None:
        values["explanation"] = caption.explanation
    values["words"] = (
        []
        if caption.silent
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
