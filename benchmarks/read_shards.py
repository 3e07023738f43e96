"""Images a second that training reads from shards, and from files: python -m
benchmarks.read_shards --help.

Both are on one disk, and are read in turns, in a random order. They were just written: what is
measured is the page cache, not the disk.
"""

from __future__ import annotations

import random
import shutil
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Annotated

import typer

from captioner.cli.options import ImagesOption
from captioner.data.batching import CaptionDataset, ImageSource, Loader
from captioner.data.datasets import Example, load_examples
from captioner.data.images import image_errors
from captioner.data.problems import Problems
from captioner.data.shard_examples import load_shards
from captioner.data.shard_writer import plan_shards, write_shards
from captioner.data.transforms import build_transform
from captioner.progress import Progress
from experiments.command import new_app, run_app

BATCH = 32

app = new_app()


def bytes_alone(examples: Sequence[Example], order: Sequence[int], workers: int) -> None:
    """Read the bytes of each image, without decoding it."""
    for index in order:
        path = examples[index].path
        with image_errors(path):
            path.read_bytes() if isinstance(path, Path) else path.read()


def through_loader(examples: Sequence[Example], order: Sequence[int], workers: int) -> None:
    """Read, decode and transform each image as training does."""
    load = ImageSource(examples, build_transform("squash", 224))
    captions = [[[1, 2]] for _ in examples]
    data = CaptionDataset(load, captions, "all", 0)
    keys = [(0, index) for index in order]
    batches = [keys[start : start + BATCH] for start in range(0, len(keys), BATCH)]
    for _ in Loader(data, batches, workers=workers):
        pass


@app.command(epilog="Example: python -m benchmarks.read_shards data/flickr8k/captions_dev.json")
def read_shards(
    annotations: Annotated[Path, typer.Argument(metavar="ANNOTATIONS")],
    images: ImagesOption = None,
    folder: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="On the disk to measure.")
    ] = None,
    count: Annotated[int, typer.Option(min=4, help="Images.")] = 1000,
    rounds: Annotated[int, typer.Option(min=1)] = 5,
    workers: Annotated[int, typer.Option(min=0, help="Processes that read.")] = 2,
) -> None:
    """Compare shards with files: the median of each, and the median and range of their ratios."""
    examples = load_examples(annotations, images)[:count]
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        files, of_tars = _copies(examples, Path(scratch))
        for measure in (bytes_alone, through_loader):
            rates: dict[str, list[float]] = {"files": [], "tars": []}
            for number in range(rounds + 1):  # the first warms up
                order = random.Random(number).sample(range(len(files)), len(files))
                for name, each in (("files", files), ("tars", of_tars)):
                    start = time.perf_counter()
                    measure(each, order, workers)
                    rates[name].append(len(order) / (time.perf_counter() - start))
            of_files, of_shards = (each[1:] for each in rates.values())
            ratios = [tar / file for file, tar in zip(of_files, of_shards, strict=True)]
            typer.echo(
                f"{measure.__name__}: files {median(of_files):,.0f} images/s, "
                f"tars {median(of_shards):,.0f} images/s, "
                f"tars / files {median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
            )


def _copies(examples: Sequence[Example], folder: Path) -> tuple[list[Example], list[Example]]:
    """Copy images to files, and to four shards, and return the examples of both."""
    with Progress("writing shards", total=len(examples)) as progress:
        plan = plan_shards(examples, size=-(-len(examples) // 4))
        write_shards(examples, folder / "tars", plan, progress)
    (folder / "files").mkdir()
    files = []
    for number, example in enumerate(examples):
        copy = folder / "files" / f"{number:08}.jpg"
        shutil.copyfile(str(example.path), copy)
        files.append(example._replace(path=copy))
    return files, load_shards([str(folder / "tars")], Problems("tars"))


if __name__ == "__main__":
    run_app(app, "benchmarks.read_shards")
