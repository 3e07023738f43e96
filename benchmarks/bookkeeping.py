"""Drive the bookkeeping of a bulk run without images: python -m benchmarks.bookkeeping --help.

A list of paths is read, each path gets a made-up caption, and the rows are written in parts, as
`captioner caption LIST --output FOLDER/` does. Reading and captioning images is left out.
"""

from __future__ import annotations

import resource
import shutil
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated

import typer

from captioner.bulk.parts import ALL, PartFolder, Shard
from captioner.captions import Caption, Word
from captioner.data.lists import ImageItem
from captioner.data.sources import Source, open_source
from captioner.results.rows import Row
from captioner.storage import atomic_file
from experiments.command import new_app, run_app
from experiments.reporting import cpu_name, markdown_table

TEXT = "a dog that is running through the grass with a ball"
MIB = 2**20
REPORTED = 1000  # parts between two lines of progress

app = new_app()


@app.command(epilog="Example: python -m benchmarks.bookkeeping /tmp/run --rows 1000000")
def bookkeeping(
    folder: Annotated[Path, typer.Argument(help="For the list and the parts; it is removed.")],
    rows: Annotated[int, typer.Option(min=1, help="Images of the list.")] = 100_000_000,
    part_size: Annotated[int, typer.Option(min=1, help="Images of a part.")] = 10_000,
    shards: Annotated[int, typer.Option(min=1, help="Shards of the run; one is timed.")] = 8,
) -> None:
    """Print the time and the memory of listing, writing and resuming so many rows."""
    folder.mkdir(parents=True)
    try:
        names = folder / "images.txt"
        lines = [("step", "seconds", "rows a second", "largest memory (MB)", "on disk (MB)")]

        def timed(step: str, count: int, begun: float) -> None:
            seconds = time.monotonic() - begun
            memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
            disk = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) / MIB
            rate = f"{count / seconds:,.0f}"
            lines.append((step, f"{seconds:.1f}", rate, f"{memory:.0f}", f"{disk:,.0f}"))

        begun = time.monotonic()
        write_list(names, rows)
        timed("write the list", rows, begun)
        begun = time.monotonic()
        source = open_source([str(names)])
        first = next(source.items())
        timed(f"until the first image, {Path(first.name).name}", 1, begun)
        parts = PartFolder.open(str(folder / "run"), "jsonl", {"rows": rows})
        begun = time.monotonic()
        written = drive(source, parts, part_size, ALL)
        timed("a run of all rows", written, begun)
        parts = PartFolder.open(str(folder / "run"), "jsonl", {"rows": rows})
        begun = time.monotonic()
        drive(source, parts, part_size, ALL)
        timed("the same run again, with nothing left to do", rows, begun)
        begun = time.monotonic()
        drive(source, parts, part_size, Shard(1, shards))
        timed(f"shard 1 of {shards}, with nothing left to do", rows // shards, begun)
        typer.echo(f"# {cpu_name()}, {rows:,} rows, parts of {part_size:,}")
        typer.echo(markdown_table(lines))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def write_list(path: Path, rows: int) -> None:
    """Write a list of paths that do not exist, as a store of images could have them."""
    with atomic_file(path) as file:
        for number in range(rows):
            file.write(f"/data/images/{number // 10_000:06}/{number:012}.jpg\n")


def drive(source: Source, folder: PartFolder, part_size: int, shard: Shard) -> int:
    """Write a row for each image of the parts of a shard that are not done; return how many."""
    words = tuple(Word(text, -0.7, 0.6) for text in TEXT.split())
    caption = Caption(TEXT, words, -7.123456789, 0.61, sure=True)
    written = 0
    with folder.claim(shard):
        for number, items in _missing(source, folder, part_size, shard):
            folder.write(number, [Row.of(item.name, caption, several=False) for item in items])
            written += len(items)
            if number % REPORTED == 0:
                typer.echo(f"bookkeeping: {written:,} rows are written", err=True)
    return written


def _missing(
    source: Source, folder: PartFolder, part_size: int, shard: Shard
) -> Iterator[tuple[int, Sequence[ImageItem]]]:
    for number, items in source.parts(part_size, shard.takes):
        if not folder.is_done(number, items):
            yield number, items


if __name__ == "__main__":
    run_app(app, "benchmarks.bookkeeping")
