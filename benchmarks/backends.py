"""Compare the backends, torch and onnxruntime: python -m benchmarks.backends --help.

Every measurement is a new process, and the backends take turns. The processes run on as many cores
as they have threads. What counts is the median of the repeats, and the ratio of the two medians.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from itertools import cycle, islice
from pathlib import Path
from statistics import median
from typing import Annotated, NamedTuple

import typer

from benchmarks.one_backend import Backend, peak_megabytes
from captioner.cli.options import ModelOption
from captioner.data.images import find_images
from captioner.errors import CaptionerError
from captioner.models.folder import read_config, resolve
from captioner.storage import atomic_file
from experiments.command import new_app, run_app
from experiments.reporting import cpu_name, markdown_table

ROOT = Path(__file__).parents[1]
BACKENDS: tuple[Backend, Backend] = ("torch", "onnx")
ONE = "one photograph, whole process: "

Costs = dict[str, float]
"""What was measured, with its unit -> how much."""

app = new_app()


@app.command(epilog="Example: python -m benchmarks.backends --images photos/ --threads 2")
def backends(
    model: ModelOption = None,
    images: Annotated[
        str, typer.Option(metavar="GLOB_OR_FOLDER", help="Photographs.", show_default="examples/")
    ] = str(ROOT / "examples"),
    count: Annotated[
        int, typer.Option(min=1, help="Photographs to caption; few images are repeated.")
    ] = 100,
    threads: Annotated[int, typer.Option(min=1, help="Threads, each on a core.")] = 1,
    repeats: Annotated[int, typer.Option(min=1, help="Measurements of each backend.")] = 5,
    file: Annotated[Path | None, typer.Option("--json", help="Also write JSON.")] = None,
) -> None:
    """Print what captioning costs with each backend: a table of medians and their ratios."""
    folder, found = resolve(model).resolve(), find_images([images]).files
    files = [path.resolve() for path in islice(cycle(found), count)]
    facts = describe(folder, photographs=len({*files}), threads=threads, repeats=repeats)
    typer.echo("# " + ", ".join(f"{name} {value}" for name, value in facts.items()))
    measured: dict[Backend, list[Costs]] = {backend: [] for backend in BACKENDS}
    for number in range(repeats):
        for backend in BACKENDS if number % 2 else BACKENDS[::-1]:
            typer.echo(f"backends: {backend}, {number + 1} of {repeats}", err=True)
            measured[backend].append(measure(backend, folder, files, threads))
    costs = {backend: medians(each) for backend, each in measured.items()}
    typer.echo(table(costs))
    if file is not None:
        with atomic_file(file) as output:
            output.write(json.dumps({**facts, **costs}, indent=2) + "\n")


def describe(folder: Path, **settings: int) -> dict[str, str | int]:
    """Return the hardware, the versions and the settings that the results depend on."""
    # This process does not import torch: a process that it starts would be said to use its memory.
    facts: dict[str, str | int] = {"cpu": cpu_name()}
    facts |= {package: version(package) for package in ("torch", "onnxruntime", "numpy")}
    config = read_config(folder)
    encoder, beam = config["encoder"], config["decoding"]["beam"]
    facts |= {"trunk": encoder["trunk"], "input": encoder["image_size"], "beam": beam}
    return facts | settings


def measure(backend: Backend, folder: Path, files: Sequence[Path], threads: int) -> Costs:
    """Return the costs of one photograph in a process, and of all `files` in another."""
    given = ["caption", str(files[0]), "--model", str(folder), "--backend", backend]
    one = run(["captioner", *given], threads)
    costs: Costs = {
        f"{ONE}seconds": one.seconds,
        f"{ONE}CPU seconds": one.cpu_seconds,
        f"{ONE}peak MB": one.megabytes,
    }
    many = run(["benchmarks.one_backend", backend, str(folder), *map(str, files)], threads)
    costs |= json.loads(many.output)
    return costs


class Run(NamedTuple):
    """A process that has ended."""

    output: str
    seconds: float
    cpu_seconds: float
    megabytes: float  # the most memory that it used


def run(command: Sequence[str], threads: int) -> Run:
    """Run a module of Python on as many cores as it has threads.

    Raises:
        CaptionerError: it fails.
    """
    counts = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), str(threads))
    start = time.perf_counter()
    with on_cores(threads):
        process = subprocess.Popen(
            [sys.executable, "-m", *command],
            stdout=subprocess.PIPE, text=True, cwd=ROOT, env={**os.environ, **counts},
        )  # fmt: skip
    assert process.stdout is not None
    with process.stdout:
        output = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - start
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise CaptionerError(f"{' '.join(command[:3])} failed with code {process.returncode}")
    return Run(output, seconds, usage.ru_utime + usage.ru_stime, peak_megabytes(usage))


@contextmanager
def on_cores(count: int) -> Iterator[None]:
    """Let the processes that are started meanwhile run on `count` cores only, if the system can."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    ours = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(ours)[:count])
    try:
        yield
    finally:
        os.sched_setaffinity(0, ours)


def medians(measured: Sequence[Costs]) -> Costs:
    """Return the median of each cost."""
    return {name: median(costs[name] for costs in measured) for name in measured[0]}


def table(costs: Mapping[Backend, Costs]) -> str:
    """Return a Markdown table with how many times less onnxruntime costs, or more it does."""
    rows = []
    for name, of_torch in costs["torch"].items():
        of_onnx = costs["onnx"][name]
        ratio = of_onnx / of_torch if name.endswith("a second") else of_torch / of_onnx
        rows.append((name, _shown(of_torch), _shown(of_onnx), f"{ratio:.1f}"))
    return markdown_table([("", "torch", "onnxruntime", "gain"), *rows])


def _shown(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


if __name__ == "__main__":
    run_app(app, "benchmarks.backends")
