"""`captioner check`: find the mistakes of a data set before training, and describe it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from captioner.checkup.check import Split, check_splits
from captioner.checkup.output import to_json, to_text, write_page
from captioner.cli.options import ImagesOption, SettingsArgument
from captioner.config.schema import Config, DataConfig, SourceConfig
from captioner.data.datasets import load_with_problems, split_sources, train_dev_split
from captioner.data.formats import split_names
from captioner.data.problems import Problems
from captioner.data.shapes import draw_shapes
from captioner.errors import UsageError
from captioner.models.folder import load_config
from captioner.report.build import check_report

EXAMPLE = "captioner check photos/captions.jsonl --html checkup.html"


def check(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="CONFIG|ANNOTATIONS",
            help="A config (.yaml): check and compare train and dev; or annotations of any format.",
            show_default=False,
        ),
    ],
    settings: SettingsArgument = None,
    images: ImagesOption = None,
    html: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.html", help="Also write a page with histograms.", show_default=False
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Check a data set.

    Prints errors in annotations and images, images that splits share, and statistics. Every image
    is read completely. Exits with 0 if nothing is wrong, with 3 if something is.
    """
    if html:
        check_report(html)
    if source.suffix in (".yaml", ".yml"):
        if images:
            raise UsageError(
                "the config names the folder of the images: "
                "set data.train.images=FOLDER instead of --images"
            )
        config = load_config(source, settings or [])
        splits, max_length = _read_config(config), config.data.max_length
    else:
        if settings:
            raise UsageError(
                f"{source} is not a config and has no settings: leave out {' '.join(settings)}"
            )
        splits, max_length = _read_annotations(source, images), DataConfig().max_length
    result = check_splits(splits, max_length=max_length)
    typer.echo(json.dumps(to_json(result)) if as_json else to_text(result))
    if html:
        write_page(html, result, title=str(source))
    if result.num_problems:
        raise typer.Exit(3)


def _read_config(config: Config) -> list[Split]:
    """Read train and dev as training does: shapes are drawn, and dev is held out from train."""
    if shapes := config.data.shapes:
        draw_shapes(shapes.folder, train=shapes.train, dev=shapes.dev)
    splits = _read(split_sources(config.data))
    if len(splits) == 1:
        train, dev = train_dev_split(splits[0].examples, config.data.holdout)
        splits = [splits[0]._replace(examples=train), splits[0]._replace(name="dev", examples=dev)]
    return splits


def _read_annotations(path: Path, images: Path | None) -> list[Split]:
    """Read a file as one split, or as the splits that it names."""
    return _read(
        {
            name or path.name: SourceConfig(annotations=path, images=images, split=name)
            for name in split_names(path)
        }
    )


def _read(sources: dict[str, SourceConfig]) -> list[Split]:
    """Read the splits. Those of the same file share its problems."""
    problems = {source.annotations: Problems(source.annotations) for source in sources.values()}
    splits = []
    for name, source in sources.items():
        shared = problems[source.annotations]
        loaded = load_with_problems(
            source.annotations, source.images, source.split, restval=source.restval, problems=shared
        )
        splits.append(Split(name, loaded.examples, loaded.missing, shared))
    return splits
