"""Compare captioner with what you would use in its place: python -m benchmarks.peers --help.

Peer and captioner take turns in one process, on as many cores as they have threads. A ratio is
that of one round; the table has the median, the lowest and the highest of all rounds.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from enum import StrEnum
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from captioner.errors import CaptionerError
from experiments.command import new_app, run_app
from experiments.reporting import cpu_name, markdown_table

if TYPE_CHECKING:
    from benchmarks.peer_tasks import Skipped, Task

app = new_app()


class Kind(StrEnum):
    """What is compared."""

    CAPTION = "caption"
    SCORE = "score"
    TRAIN = "train"


@dataclass(frozen=True)
class Result:
    """The speed of both sides, in items a second: medians over the rounds."""

    task: str
    threads: int
    unit: str
    peer: str
    peer_speed: float
    ours: str
    our_speed: float
    ratio: float  # the median of the ratios of the rounds: above 1, captioner is faster
    lowest: float
    highest: float

    def cells(self) -> list[str]:
        """Return its row of the table."""
        speeds = [f"{speed:.3g} {self.unit}/s" for speed in (self.peer_speed, self.our_speed)]
        spread = f"{self.ratio:.2f} ({self.lowest:.2f} to {self.highest:.2f})"
        return [self.task, f"{self.threads}", self.peer, speeds[0], self.ours, speeds[1], spread]


HEAD = ["task", "threads", "peer", "peer's speed", "captioner", "its speed", "ratio"]


@app.command(epilog="Example: python -m benchmarks.peers --only caption --threads 1 --rounds 3")
def peers(
    only: Annotated[
        list[Kind] | None,
        typer.Option(help="Compare this; repeat for several.", show_default="all"),
    ] = None,
    threads: Annotated[
        list[int] | None,
        typer.Option(min=1, help="Threads; repeat for several.", show_default="1 and all cores"),
    ] = None,
    rounds: Annotated[
        int, typer.Option(min=1, help="Measurements of each side, after a warm-up.")
    ] = 5,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print JSON, one object per line.")
    ] = False,
) -> None:
    """Print a table of speeds and ratios: caption photographs, score captions, train."""
    kinds = only or list(Kind)
    cores = len(os.sched_getaffinity(0))
    counts = threads or sorted({1, cores})
    if len(counts) == 1 and as_json:
        for result in measure_here(kinds, min(counts[0], cores), rounds):
            typer.echo(json.dumps(asdict(result)))
        return
    found = [each for count in counts for each in measure_in_process(kinds, count, rounds)]
    if as_json:
        for each in found:
            typer.echo(json.dumps(asdict(each)))
        return
    facts = describe(rounds)
    typer.echo("# " + ", ".join(f"{name} {value}" for name, value in facts.items()))
    typer.echo(markdown_table([HEAD, *(each.cells() for each in found)]))


def measure_in_process(kinds: Sequence[Kind], threads: int, rounds: int) -> list[Result]:
    """Measure in a process of its own: the libraries read their number of threads at import.

    Raises:
        CaptionerError: the process failed.
    """
    command = [sys.executable, "-m", "benchmarks.peers", "--json"]
    command += [f"--only={kind}" for kind in kinds]
    command += [f"--threads={threads}", f"--rounds={rounds}"]
    run = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if run.returncode:  # it has said why
        raise CaptionerError(f"the measurement with {threads} threads failed")
    return [Result(**json.loads(line)) for line in run.stdout.splitlines()]


def measure_here(kinds: Sequence[Kind], threads: int, rounds: int) -> list[Result]:
    """Measure in this process, which is bound to as many cores as `threads`."""
    os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = str(threads)
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])
    import torch  # not needed for --help

    from benchmarks import peer_tasks

    torch.set_num_threads(threads)
    results = []
    with tempfile.TemporaryDirectory() as folder:
        for task in make_tasks(kinds, Path(folder)):
            if isinstance(task, peer_tasks.Skipped):
                typer.echo(f"{task.name}: not measured: {task.reason}", err=True)
            else:
                results.append(measure(task, threads, rounds))
    return results


def make_tasks(kinds: Sequence[Kind], folder: Path) -> list[Task | Skipped]:
    """Return the tasks of some kinds."""
    from benchmarks import peer_tasks
    from benchmarks.synthetic import Setup

    setup = Setup(folder, precision="fp32")
    makers = {
        Kind.CAPTION: lambda: peer_tasks.caption_tasks(setup),
        Kind.SCORE: lambda: peer_tasks.metric_tasks(folder),
        Kind.TRAIN: lambda: peer_tasks.training_tasks(setup),
    }
    return [task for kind in kinds for task in makers[kind]()]


def measure(task: Task, threads: int, rounds: int) -> Result:
    """Let both sides take turns. The side that goes first alternates; round 0 is the warm-up."""
    sides = (task.run_peer, task.run_ours)
    seconds: list[tuple[float, float]] = []
    for number in range(rounds + 1):
        taken = dict.fromkeys(sides, 0.0)
        for side in sides if number % 2 else sides[::-1]:
            start = time.perf_counter()
            side()
            taken[side] = time.perf_counter() - start
        seconds.append((taken[sides[0]], taken[sides[1]]))
        state = "warm-up" if number == 0 else f"round {number} of {rounds}"
        peer, ours = seconds[-1]
        typer.echo(f"{task.name}: {state}: peer {peer:.2f} s, ours {ours:.2f} s", err=True)
    peers, ours = zip(*seconds[1:], strict=True)
    ratios = [peer / our for peer, our in seconds[1:]]
    return Result(
        task.name,
        threads,
        task.unit,
        task.peer,
        task.items / statistics.median(peers),
        task.ours,
        task.items / statistics.median(ours),
        statistics.median(ratios),
        min(ratios),
        max(ratios),
    )


def describe(rounds: int) -> dict[str, str | int]:
    """Return the machine, the date and the versions that the results depend on."""
    packages = {}
    for name in ("torch", "onnxruntime", "transformers", "pycocoevalcap"):
        try:
            packages[name] = version(name)
        except PackageNotFoundError:
            continue
    day = datetime.now(UTC).date().isoformat()
    return {"cpu": cpu_name(), "date": day, "rounds": rounds, "seed": 0, **packages}


if __name__ == "__main__":
    run_app(app, "benchmarks.peers")
