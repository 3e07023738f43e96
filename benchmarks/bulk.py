"""Images a second and memory of bulk runs: one process, shards, and actors of Ray:
python -m benchmarks.bulk --help.

The runs take turns, on the same images and cores. A process computes in as many threads as it has
cores for itself: all for the plain run, one for each shard and actor.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from shlex import join
from statistics import median
from typing import Annotated, NamedTuple

import typer

from captioner.errors import CaptionerError
from captioner.runtime.graphs import usable_threads
from experiments.coco_size.measured import run
from experiments.command import new_app, run_app

app = new_app()


class Way(NamedTuple):
    """A way to run the same work."""

    command: str  # of the shell
    processes: int  # that caption at the same time
    threads: str | None = None  # of each; None: its own choice


class Figures(NamedTuple):
    """What a run took."""

    seconds: float
    until_first: float  # seconds until the first part was written
    per_second: float  # images, from the first part of each process to the last of all
    megabytes: float  # of all its processes, at most


def ways(plain: Sequence[str], processes: int, *, with_ray: bool) -> dict[str, Way]:
    """Return each way to run a command: in one process, in shards, and on Ray."""
    shards = [
        f"{join([*plain, '--shard', f'{index}/{processes}'])} &"
        for index in range(1, processes + 1)
    ]
    ray = {
        f"--ray --actors {number}": Way(join([*plain, "--ray", "--actors", str(number)]), number)
        for number in (sorted({1, processes}) if with_ray else ())
    }
    return {
        "one process": Way(join(plain), 1),
        f"{processes} shards at once": Way(" ".join([*shards, "wait"]), processes, "1"),
        **ray,
    }


def measure(way: Way, output: Path, part_size: int) -> Figures:
    """Run a command, and compare the times of the parts that it has written."""
    begun = time.time()
    threads = {"OMP_NUM_THREADS": way.threads} if way.threads else None
    measured = run(["sh", "-c", way.command], env=threads)
    written = sorted(part.stat().st_mtime for part in output.glob("part-*"))
    later = written[way.processes - 1 :]  # when each process has written a part
    if len(later) < 2:
        raise CaptionerError("there are too few parts: name more images, or a lower --part-size")
    per_second = (len(later) - 1) * part_size / (later[-1] - later[0])
    return Figures(measured.seconds, written[0] - begun, per_second, measured.megabytes)


@app.command(epilog="Example: python -m benchmarks.bulk photos/ --part-size 50")
def bulk(
    images: Annotated[Path, typer.Argument(metavar="FOLDER", help="At least a few parts.")],
    part_size: Annotated[int, typer.Option(min=1, help="Images of a part.")] = 50,
    rounds: Annotated[int, typer.Option(min=1)] = 3,
    model: Annotated[str, typer.Option(help="A model folder with graphs.")] = "bundled",
    processes: Annotated[
        int | None, typer.Option(min=1, help="Shards and actors.", show_default="one for each core")
    ] = None,
    device: Annotated[
        str, typer.Option(help="cpu, with onnxruntime; or cuda, with torch and without Ray.")
    ] = "cpu",
) -> None:
    """Compare the plain command with shards and with Ray: medians, and that all bytes are equal."""
    processes = processes or usable_threads()
    with_ray = device == "cpu" and find_spec("ray") is not None
    computing = ["--backend", "onnx"] if device == "cpu" else ["--device", device]
    figures: dict[str, list[Figures]] = {}
    contents = set()
    with tempfile.TemporaryDirectory() as scratch:
        output = Path(scratch, "out")
        options = ["--output", f"{output}/", "--part-size", str(part_size), "--model", model]
        command = [sys.executable, "-m", "captioner", "caption", str(images), *computing]
        for _ in range(rounds):
            each_way = ways([*command, *options], processes, with_ray=with_ray)
            for name, way in each_way.items():
                each = measure(way, output, part_size)
                figures.setdefault(name, []).append(each)
                contents.add(tuple(file.read_bytes() for file in sorted(output.iterdir())))
                shutil.rmtree(output)
    typer.echo("| | seconds | until the first part | images/s after it | MB at most |")
    typer.echo("|---|---:|---:|---:|---:|")
    for name, all_of_way in figures.items():
        cells = [f"{median(values):,.1f}" for values in zip(*all_of_way, strict=True)]
        typer.echo(f"| {name} | {' | '.join(cells)} |")
    typer.echo(f"\nall outputs have the same bytes: {len(contents) == 1}")


if __name__ == "__main__":
    run_app(app, "benchmarks.bulk")
