"""Look a data set over before it is trained on: what is wrong with it, and what it is like."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import typer

from captioner.checkup.check import Split, check
from captioner.checkup.page import write_checkup
from captioner.checkup.text import as_text, as_values
from captioner.config.schema import Config, DataConfig, SourceConfig
from captioner.data.datasets import hold_out, read_examples
from captioner.data.formats import split_names
from captioner.data.problems import Problems
from captioner.data.shapes import draw_shapes
from captioner.errors import UsageError
from captioner.report.build import check_report
from captioner.training.settings import load_config


def check_data(
    source: Path,
    *,
    settings: Sequence[str] = (),
    images: Path | None = None,
    page: Path | None = None,
    as_json: bool = False,
) -> int:
    """Check the splits of a config (.yaml), or of an annotation file of any format, and print what was found.

    Returns:
        How many things are wrong.

    Raises:
        UsageError: something cannot be read at all.
    """
    if page:
        check_report(page)
    if source.suffix in (".yaml", ".yml"):
        if images:
            raise UsageError(
                "a config says itself where images are: set data.train.images=FOLDER instead of --images"
            )
        config = load_config(source, settings)
        splits, longest = _of_config(config), config.data.max_length
    else:
        if settings:
            raise UsageError(
                f"{source} is no config, so there is nothing to set: leave out {' '.join(settings)}"
            )
        splits, longest = _of_annotations(source, images), DataConfig().max_length
    checkup = check(splits, max_length=longest)
    typer.echo(json.dumps(as_values(checkup)) if as_json else as_text(checkup))
    if page:
        write_checkup(page, checkup, title=str(source))
    return checkup.found


def _of_config(config: Config) -> list[Split]:
    """Read train and dev as training does, drawn or held out where that is asked for."""
    shapes = config.data.shapes
    if shapes:
        draw_shapes(shapes.folder, train=shapes.train, dev=shapes.dev)
    splits = _read(config.data.sources())
    if len(splits) == 1:
        train, dev = hold_out(splits[0].examples, config.data.holdout)
        splits = [splits[0]._replace(examples=train), splits[0]._replace(name="dev", examples=dev)]
    return splits


def _of_annotations(path: Path, images: Path | None) -> list[Split]:
    """Read a file as one split, or as those that it names itself."""
    return _read(
        {
            name or path.name: SourceConfig(annotations=path, images=images, split=name)
            for name in split_names(path)
        }
    )


def _read(sources: dict[str, SourceConfig]) -> list[Split]:
    problems = {source.annotations: Problems(source.annotations) for source in sources.values()}
    splits = []
    for name, source in sources.items():
        own = problems[source.annotations]
        found = read_examples(
            source.annotations, source.images, source.split, restval=source.restval, problems=own
        )
        splits.append(Split(name, found.examples, found.missing, own))
    return splits
