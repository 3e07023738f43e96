"""Compare the captions of torch and onnxruntime: python -m benchmarks.equal_captions --help."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, NamedTuple

import typer

from captioner.captions import Caption
from captioner.cli.options import ImagesOption, ModelOption, SplitOption
from captioner.data.datasets import load_examples
from captioner.models.folder import resolve
from experiments.command import new_app, run_app

TIE = 1e-4
"""Captions whose log-probabilities differ by less are equally likely: rounding chooses one."""

app = new_app()


class Difference(NamedTuple):
    """An image to which the backends give two captions."""

    image: Path
    torch: Caption
    onnx: Caption

    @property
    def is_tie(self) -> bool:
        """Whether both captions are equally likely."""
        return abs(self.torch.log_prob - self.onnx.log_prob) < TIE


@app.command(epilog="Example: python -m benchmarks.equal_captions --annotations captions_dev.json")
def equal_captions(
    annotations: Annotated[
        Path, typer.Option(metavar="FILE", help="A file that names images, in any known format.")
    ],
    images: ImagesOption = None,
    split: SplitOption = None,
    model: ModelOption = None,
    first: Annotated[int | None, typer.Option(min=1, help="Compare the first images only.")] = None,
) -> None:
    """Print the images whose captions differ, with the log-probabilities, as JSON; then a count."""
    files = [example.path for example in load_examples(annotations, images, split)][:first]
    found = differences(resolve(model), files)
    for image, torch, onnx in found:
        captions = {"torch": torch, "onnx": onnx}
        shown = {name: [each.text, each.log_prob] for name, each in captions.items()}
        typer.echo(json.dumps({"image": str(image), **shown}, ensure_ascii=False))
    ties = sum(each.is_tie for each in found)
    typer.echo(
        f"{len(files) - len(found)} of {len(files)} captions are equal, {ties} of the others "
        "are as likely",
        err=True,
    )


def differences(model: Path, images: Sequence[Path]) -> list[Difference]:
    """Caption images with both backends, and return those with two captions."""
    from captioner import Captioner  # not needed for --help

    torch, onnx = (
        Captioner.from_pretrained(model, device="cpu", precision="fp32", backend=backend).caption(
            images
        )
        for backend in ("torch", "onnx")
    )
    every = map(Difference, images, torch, onnx)
    return [each for each in every if each.torch.text != each.onnx.text]


if __name__ == "__main__":
    run_app(app, "benchmarks.equal_captions")
