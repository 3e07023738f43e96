"""`captioner shard`: write a data set as shards, which are tars of images with their captions."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from captioner.cli.options import ImagesOption, SplitOption
from captioner.config.run import SourceConfig
from captioner.console import console, one_line, print_results
from captioner.data.problems import Problems
from captioner.data.shard_writer import SIZE, plan_shards, write_shards
from captioner.data.splits import load_image_source
from captioner.errors import UsageError
from captioner.progress import Progress

EXAMPLE = "captioner shard photos/captions.jsonl --output shards/"

MAX_PRINTED = 20  # images that cannot be read


def shard(
    annotations: Annotated[
        str,
        typer.Argument(
            metavar="ANNOTATIONS",
            help="Annotations of any format, shards to write anew, or a data set hf://owner/name.",
            show_default=False,
        ),
    ],
    output: Annotated[
        Path,
        typer.Option(metavar="FOLDER", help="Gets 00000.tar, 00001.tar, ...", show_default=False),
    ],
    images: ImagesOption = None,
    split: SplitOption = None,
    restval: Annotated[
        bool, typer.Option("--restval", help="Karpathy: add `restval` to `train`.")
    ] = False,
    size: Annotated[
        int | None,
        typer.Option(min=1, metavar="IMAGES", help="Images of a shard.", show_default=str(SIZE)),
    ] = None,
    megabytes: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="MB",
            help="Instead of --size: so many megabytes of a shard, about.",
            show_default=False,
        ),
    ] = None,
    log_json: Annotated[
        bool, typer.Option("--log-json", help="Write progress on stderr as JSON lines.")
    ] = False,
) -> None:
    """Write a data set as shards for training, in the layout of WebDataset and img2dataset.

    The bytes of the images stay as they are, and equal data gives equal tars. A killed run
    continues: complete tars are kept. Exits with 3 if images could not be read and are left out.
    """
    if size and megabytes:
        raise UsageError("--size and --megabytes exclude each other: leave one out")
    source = _source(annotations, images, split, restval=restval)
    problems = Problems(annotations)
    loaded = load_image_source(source, problems, skip_missing=True)
    problems.raise_errors()
    examples = loaded.examples
    plan = plan_shards(examples, size=size, megabytes=megabytes)
    with (
        print_results(files=True) as print_line,
        Progress("writing shards", total=len(examples), json_lines=log_json) as progress,
    ):
        errors = write_shards(examples, output, plan, progress)
        num_images = len(examples) - len(errors)
        kept = f", {progress.skipped:,} of them before" if progress.skipped else ""
        print_line(f"{output}: {len(plan):,} tars, {num_images:,} images{kept}")
    for error in errors[:MAX_PRINTED]:
        console.print(f"captioner: {one_line(str(error))}", markup=False)
    if errors:
        console.print(
            f"captioner: {len(errors):,} of {len(examples):,} images could not be read and are "
            "left out"
        )
        raise typer.Exit(3)


def _source(
    annotations: str, images: Path | None, split: str | None, *, restval: bool
) -> SourceConfig:
    """Return the source that the arguments name."""
    if not annotations.startswith("hf://"):  # owner/name may be a path that is mistyped
        return SourceConfig(
            annotations=Path(annotations), images=images, split=split, restval=restval
        )
    if images or restval:
        raise UsageError(
            f"{annotations} has its images in a column: leave out --images and --restval"
        )
    return SourceConfig(dataset=annotations, split=split)
