"""Measure how fast captioner trains and captions, against a naive loop: python scripts/benchmark.py --help.

Figures are items per second of one core's own time (`time.process_time`, one thread, no worker processes), so they hold
on a busy machine; on a GPU they are items per second of the clock. Ours and the naive way take turns, round by round,
and the medians are told. Weights are random, which changes no speed.
"""

from __future__ import annotations

import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from command import new_app, run_app
from pages import cpu

from captioner.errors import CaptionerError

if TYPE_CHECKING:
    from contests import Contest, Setting

app = new_app()


class Name(StrEnum):
    """What can be measured."""

    TRAIN_CACHED = "train-cached"
    TRAIN_JPEG = "train-jpeg"
    SELF_CRITICAL = "self-critical"
    CAPTION_JPEG = "caption-jpeg"
    DECODE = "decode"
    REQUIRE = "require"


class Device(StrEnum):
    """Where to compute."""

    CPU = "cpu"
    CUDA = "cuda"


class Precision(StrEnum):
    """How precisely, both ours and the naive way."""

    AUTO = "auto"
    FP32 = "fp32"
    BF16 = "bf16"


@dataclass(frozen=True)
class Result:
    """Items per second, the median of the rounds."""

    benchmark: str
    unit: str
    ours: float
    naive: float
    against: str  # what `naive` is
    ratio: float  # the median of the rounds' ratios, each of two runs side by side
    lowest_ratio: float
    highest_ratio: float
    ours_mib: float | None = None  # peak memory on a GPU
    naive_mib: float | None = None

    def line(self) -> str:
        """Write it as a row of the table."""
        row = f"{self.benchmark:<13} {self.ours:>9.1f} {self.naive:>9.1f}  {self.ratio:>6.2f}"
        row += f"  ({self.lowest_ratio:.2f} to {self.highest_ratio:.2f})  {self.unit}, against {self.against}"
        return (
            row
            if self.ours_mib is None
            else f"{row}  peak MiB {self.ours_mib:.0f}, naive {self.naive_mib:.0f}"
        )


@app.command(
    epilog="Example: python scripts/benchmark.py --only train-cached --only decode --rounds 7"
)
def benchmark(
    only: Annotated[
        list[Name] | None,
        typer.Option(help="Measure this; may be given again.", show_default="all"),
    ] = None,
    rounds: Annotated[
        int, typer.Option(min=1, help="Turns that each side takes, after one to warm up.")
    ] = 5,
    device: Annotated[Device, typer.Option(help="Where to compute.")] = Device.CPU,
    precision: Annotated[
        Precision, typer.Option(help="auto: bfloat16 where the hardware gains from it.")
    ] = (Precision.AUTO),
    as_json: Annotated[
        bool, typer.Option("--json", help="Print JSON, one object per line.")
    ] = False,
) -> None:
    """Measure items per core-second, ours and a naive loop's, side by side."""
    os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = "1"
    from contests import Setting, choose_device  # imports torch, which --help should not wait for

    try:
        with tempfile.TemporaryDirectory() as folder:
            setting = Setting(Path(folder), choose_device(device.value), precision.value)
            facts = machine(setting, rounds)
            if as_json:
                typer.echo(json.dumps(facts))
            else:
                typer.echo("# " + ", ".join(f"{name} {value}" for name, value in facts.items()))
                typer.echo(f"{'per second':<13} {'ours':>9} {'naive':>9}  {'ratio':>6}")
            for result in run(list(only or Name), setting, rounds=rounds):
                typer.echo(json.dumps(asdict(result)) if as_json else result.line())
    except CaptionerError as error:
        typer.echo(f"benchmark: {error}", err=True)
        raise typer.Exit(error.exit_code) from None


def run(names: list[Name], setting: Setting, *, rounds: int) -> Iterator[Result]:
    """Measure one contest after the other."""
    from contests import CONTESTS

    for name in names:
        typer.echo(f"{name}: preparing", err=True)
        yield measure(CONTESTS[name](setting), setting, rounds=rounds)


def measure(contest: Contest, setting: Setting, *, rounds: int) -> Result:
    """Let both sides take turns; who begins changes from round to round. The first round of each does not count."""
    seconds: dict[Side, list[float]] = {"ours": [], "naive": []}
    memory: dict[Side, float | None] = {}
    for number in range(rounds + 1):
        for side in SIDES if number % 2 else SIDES[::-1]:
            took, memory[side] = cost(contest.ours if side == "ours" else contest.naive, setting)
            seconds[side].append(took)
        if number:
            ours, naive = (contest.items / seconds[side][-1] for side in SIDES)
            progress = (
                f"round {number} of {rounds}: ours {ours:.1f}, naive {naive:.1f} {contest.unit}/s"
            )
            typer.echo(f"{contest.name}: {progress}", err=True)
    ours, naive = (
        statistics.median(contest.items / took for took in seconds[side][1:]) for side in SIDES
    )
    ratios = [
        theirs / ours
        for ours, theirs in zip(seconds["ours"][1:], seconds["naive"][1:], strict=True)
    ]
    return Result(
        contest.name,
        contest.unit,
        ours,
        naive,
        contest.against,
        statistics.median(ratios),
        min(ratios),
        max(ratios),
        memory["ours"],
        memory["naive"],
    )


Side = Literal["ours", "naive"]
SIDES: tuple[Side, Side] = ("ours", "naive")


def cost(work: Callable[[], object], setting: Setting) -> tuple[float, float | None]:
    """Do the work once; give its seconds, and on a GPU the most memory (MiB) that it took beyond what was taken."""
    if setting.device.type == "cpu":
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


def machine(setting: Setting, rounds: int) -> dict[str, str | int | bool]:
    """Say what the figures hang on."""
    import torch

    about = Path("/proc/cpuinfo")
    amx = about.exists() and "amx_tile" in about.read_text()
    facts: dict[str, str | int | bool] = {"cpu": cpu(), "amx": amx}
    if setting.device.type == "cuda":
        facts["gpu"] = torch.cuda.get_device_name(setting.device)
    return facts | {
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "precision": setting.precision,
        "seed": setting.seed,
        "rounds": rounds,
        "clock": "core-seconds" if setting.device.type == "cpu" else "seconds",
    }


if __name__ == "__main__":
    run_app(app)
