"""Measure how fast captioner trains and captions: python -m benchmarks.benchmark --help.

On a CPU, speed is items per second of CPU time of one core (`time.process_time`; one thread, no
worker processes), so other work on the machine hardly changes it. On a GPU, it is items per second
of wall-clock time. Captioner and the baseline take turns; the result is the median over the rounds.
The weights are random, which does not change the speed.
"""

from __future__ import annotations

import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from captioner.devices import PrecisionName, pick_device
from captioner.errors import UsageError, parameter
from experiments.command import new_app, run_app
from experiments.reporting import cpu_name

if TYPE_CHECKING:
    import torch

    from benchmarks.synthetic import Setup
    from benchmarks.texts import TextSetup
    from benchmarks.workloads import Workload

Side = Literal["ours", "baseline"]
SIDES: tuple[Side, Side] = ("ours", "baseline")

app = new_app()


class Name(StrEnum):
    """The workloads."""

    TRAIN_CACHED = "train-cached"
    TRAIN_JPEG = "train-jpeg"
    SELF_CRITICAL = "self-critical"
    CAPTION_JPEG = "caption-jpeg"
    DECODE = "decode"
    REQUIRE = "require"
    TRAIN_TEXT = "train-text"
    TRAIN_ATTENTION = "train-attention"
    TRANSLATE = "translate"


@dataclass(frozen=True)
class Result:
    """Speed of both sides, in items per second: the median of the rounds."""

    benchmark: str
    unit: str
    ours: float
    baseline: float
    against: str  # what the baseline is
    ratio: float  # the median of the ratios of the rounds
    lowest_ratio: float
    highest_ratio: float
    ours_mib: float | None = None  # peak GPU memory
    baseline_mib: float | None = None

    def line(self) -> str:
        """Return a row of the table."""
        row = (
            f"{self.benchmark:<15} {self.ours:>9.1f} {self.baseline:>9.1f}  {self.ratio:>6.2f}"
            f"  ({self.lowest_ratio:.2f} to {self.highest_ratio:.2f})"
            f"  {self.unit}, against {self.against}"
        )
        if self.ours_mib is None:
            return row
        return f"{row}  peak MiB {self.ours_mib:.0f}, baseline {self.baseline_mib:.0f}"


@app.command(
    epilog="Example: python -m benchmarks.benchmark --only train-cached --only decode --rounds 7"
)
def benchmark(
    only: Annotated[
        list[Name] | None,
        typer.Option(help="Measure this workload; repeat for several.", show_default="all"),
    ] = None,
    rounds: Annotated[
        int, typer.Option(min=1, help="Measurements of each side, after a warm-up.")
    ] = 5,
    device: Annotated[Literal["cpu", "cuda"], typer.Option(help="Device of both sides.")] = "cpu",
    precision: Annotated[
        PrecisionName, typer.Option(help="auto: bfloat16 where the hardware gains from it.")
    ] = "auto",
    source: Annotated[
        Path | None,
        typer.Option(
            help="Text of train-text, train-attention and translate: one source a line.",
            show_default="random words",
        ),
    ] = None,
    target: Annotated[
        Path | None,
        typer.Option(help="The translation of each line of --source.", show_default="none"),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print JSON, one object per line.")
    ] = False,
) -> None:
    """Measure items per second of captioner and of a baseline, side by side."""
    if target is not None and source is None:
        raise UsageError(f"{parameter('target')} needs {parameter('source')}: name both files")
    os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = "1"
    import torch  # not needed for --help

    from benchmarks.synthetic import Setup
    from benchmarks.texts import TextSetup

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        setup = Setup(Path(folder), pick_device(device), precision)
        text = TextSetup(setup, source, target)
        facts = describe_machine(setup.device, setup.precision, rounds) | {"seed": setup.seed}
        if as_json:
            typer.echo(json.dumps(facts))
        else:
            typer.echo("# " + ", ".join(f"{name} {value}" for name, value in facts.items()))
            typer.echo(f"{'per second':<15} {'ours':>9} {'baseline':>9}  {'ratio':>6}")
        for result in measure_all(only or list(Name), setup, text, rounds=rounds):
            typer.echo(json.dumps(asdict(result)) if as_json else result.line())


def measure_all(
    names: Sequence[Name], setup: Setup, text: TextSetup, *, rounds: int
) -> Iterator[Result]:
    """Yield the result of each workload."""
    from benchmarks import translation, workloads

    for name in names:
        typer.echo(f"{name}: preparing", err=True)
        make_of_text = translation.WORKLOADS.get(name)
        workload = make_of_text(text) if make_of_text else workloads.WORKLOADS[name](setup)
        yield measure(workload, setup, rounds=rounds)


def measure(workload: Workload, setup: Setup, *, rounds: int) -> Result:
    """Measure both sides in turn. The side that goes first alternates; round 0 is the warm-up."""
    work = {"ours": workload.ours, "baseline": workload.baseline}
    seconds: dict[Side, list[float]] = {"ours": [], "baseline": []}
    memory: dict[Side, float | None] = {}
    for number in range(rounds + 1):
        for side in SIDES if number % 2 else SIDES[::-1]:
            duration, memory[side] = cost(work[side], setup)
            seconds[side].append(duration)
        if number:
            ours, baseline = (workload.items / seconds[side][-1] for side in SIDES)
            speeds = f"ours {ours:.1f}, baseline {baseline:.1f} {workload.unit}/s"
            typer.echo(f"{workload.name}: round {number} of {rounds}: {speeds}", err=True)
    measured = list(zip(seconds["ours"][1:], seconds["baseline"][1:], strict=True))
    ratios = [baseline / ours for ours, baseline in measured]
    return Result(
        workload.name,
        workload.unit,
        ours=statistics.median(workload.items / ours for ours, _ in measured),
        baseline=statistics.median(workload.items / baseline for _, baseline in measured),
        against=workload.against,
        ratio=statistics.median(ratios),
        lowest_ratio=min(ratios),
        highest_ratio=max(ratios),
        ours_mib=memory["ours"],
        baseline_mib=memory["baseline"],
    )


def cost(work: Callable[[], object], setup: Setup) -> tuple[float, float | None]:
    """Return the seconds that `work` takes, and on a GPU the MiB that it adds to memory at most."""
    if setup.device.type == "cpu":
        start = time.process_time()
        work()
        return time.process_time() - start, None
    from torch import cuda

    cuda.synchronize()
    cuda.reset_peak_memory_stats()
    before, start = cuda.memory_allocated(), time.perf_counter()
    work()
    cuda.synchronize()
    return time.perf_counter() - start, (cuda.max_memory_allocated() - before) / 2**20


def describe_machine(
    device: torch.device, precision: PrecisionName, rounds: int
) -> dict[str, str | int | bool]:
    """Return the hardware and the settings that the results depend on."""
    import torch

    cpu_info = Path("/proc/cpuinfo")
    has_amx = cpu_info.exists() and "amx_tile" in cpu_info.read_text()
    facts: dict[str, str | int | bool] = {"cpu": cpu_name(), "amx": has_amx}
    if device.type == "cuda":
        facts["gpu"] = torch.cuda.get_device_name(device)
    return facts | {
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "precision": precision,
        "rounds": rounds,
        "clock": "core-seconds" if device.type == "cpu" else "seconds",
    }


if __name__ == "__main__":
    run_app(app, "benchmarks.benchmark")
