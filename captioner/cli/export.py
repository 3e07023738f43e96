"""`captioner export`: a model folder with ONNX graphs, or a page that captions in a browser."""

from __future__ import annotations

import os
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from captioner.cli.options import ModelOption
from captioner.console import console, loading
from captioner.errors import MissingPackageError, UsageError
from captioner.models.folder import resolve
from captioner.requirements import check_torch

if TYPE_CHECKING:
    from captioner.export.verify import Comparison

EXAMPLE = "captioner export --model runs/first/best --output exported"


def export(
    model: ModelOption = None,
    output: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER", help="The model folder with graphs to write.", show_default=False
        ),
    ] = None,
    half: Annotated[bool, typer.Option("--half", help="Store the weights as float16.")] = False,
    greedy: Annotated[
        bool,
        typer.Option("--greedy", help="Also write one graph that returns greedy token ids."),
    ] = False,
    web: Annotated[
        Path | None,
        typer.Option(
            metavar="SITE",
            help="Write a page that captions in the browser, for any web server.",
            show_default=False,
        ),
    ] = None,
    ort: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="Files of npm's onnxruntime-web, for --web.", show_default=False
        ),
    ] = None,
    examples: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER", help="Images that the page of --web offers.", show_default=False
        ),
    ] = None,
) -> None:
    """Export a model to ONNX graphs, which need no PyTorch.

    The graphs are compared with PyTorch before anything is written. The folder has a README that
    shows how to use them from Python, JavaScript and C++.
    """
    if output is None and web is None:
        raise UsageError("name what to write: --output FOLDER, --web SITE, or both")
    if (web is None) != (ort is None):
        raise UsageError(
            "--web and --ort need each other: --web SITE --ort node_modules/onnxruntime-web"
        )
    if examples is not None and web is None:
        raise UsageError("--examples has no effect without --web: add it")
    if output is not None and web is not None and output.resolve() == web.resolve():
        raise UsageError("--output and --web name the same folder: name two")
    source = resolve(model)
    _check_packages()
    # torch prints internal warnings about sizes that it does not infer, which are harmless here
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    if web is not None and ort is not None:
        from captioner.export.site import check_site, find_package

        find_package(ort)
        check_site(source, web, examples)
    with tempfile.TemporaryDirectory() as scratch:
        folder = output or Path(scratch, "model")
        with loading("PyTorch; then both backends caption, and are compared"):
            from captioner.export.folder import export_model

            comparison = export_model(source, folder, greedy=greedy, half=half)
        _report(comparison)
        if output is not None:
            typer.echo(output)
        if web is not None and ort is not None:
            from captioner.export.site import build_site

            build_site(folder, web, ort, examples=examples)
            typer.echo(web)


def _check_packages() -> None:
    """Raise before PyTorch is loaded if a package that writes graphs is missing."""
    check_torch("captioner export", way_out="export the model on another machine")
    if find_spec("onnx") is None:
        raise MissingPackageError("captioner export needs the package onnx: pip install onnx")


def _report(comparison: Comparison) -> None:
    ties = f", {comparison.ties} of them with equal scores but other words" * bool(comparison.ties)
    console.print(
        f"captioner: {comparison.captions} test captions equal PyTorch's{ties}; the largest "
        f"difference of a log-probability is {comparison.difference:.1g}"
    )
