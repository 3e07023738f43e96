"""Caption files, and write down what was said."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import typer

from captioner.config import DeviceName, PrecisionName
from captioner.console import console, track
from captioner.data.images import find_images
from captioner.errors import ImageError
from captioner.metrics.results import check_destination, write_results


def caption_files(
    paths: Sequence[str],
    *,
    model: Path | None = None,
    beam: int | None = None,
    max_length: int | None = None,
    batch_size: int = 16,
    device: DeviceName = "auto",
    precision: PrecisionName = "auto",
    output: Path | None = None,
    as_json: bool = False,
) -> int:
    """Print the caption of every image as soon as it is known; name those that cannot be read on stderr.

    Returns:
        How many images could not be read.
    """
    if output:
        check_destination(output)
    files = find_images(paths)
    from captioner.inference import Captioner  # imports torch, which a wrong path should not wait for

    captioner = Captioner.from_pretrained(model, device=device, precision=precision)
    captions: dict[int | str, str] = {}
    failed = 0
    stream = captioner.stream(files, beam=beam, max_length=max_length, batch_size=batch_size)
    for file, result in zip(files, track(stream, total=len(files), doing="captioning", unit="images"), strict=True):
        if isinstance(result, ImageError):
            failed += 1
            console.print(f"captioner: {result}", markup=False)
            continue
        captions[str(file)] = result.text
        if as_json:
            typer.echo(json.dumps({"image": str(file), "caption": result.text, "log_prob": result.log_prob}))
        else:
            typer.echo(f"{file}\t{result.text}")
    if output:
        write_results(output, captions)
    if failed:
        console.print(f"captioner: {failed} of {len(files)} images could not be read, the others are captioned")
    return failed
