"""Time and memory until the first caption of long sources: python -m experiments.first_caption."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated, NamedTuple

import typer
from PIL import Image

from experiments.command import new_app, run_app
from experiments.reporting import cpu_name, markdown_table

EXAMPLES = Path(__file__).parents[1] / "examples"
SIDE = 64  # pixels of the small images

app = new_app()


class Cost(NamedTuple):
    """What a command took until its first caption."""

    wall_seconds: float
    cpu_seconds: float
    peak_mib: int


@app.command()
def main(
    images: Annotated[int, typer.Option(help="Images in the folder.")] = 100_000,
    paths: Annotated[int, typer.Option(help="Paths in the list.")] = 5_000_000,
) -> None:
    """Measure a few photographs, a long list, and a large folder, on Linux."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        few, many, listed = folder / "few", folder / "many", folder / "list.txt"
        photos = _make_small(few)
        many.mkdir()
        for number in range(images):
            os.link(photos[number % len(photos)], many / f"{number:07}.jpg")
        with listed.open("w") as file:
            file.writelines(f"many/{number:07}.jpg\n" for number in range(paths))
        output = ("--output", f"{folder}/captions/", "--part-size", "8")
        rows = {
            f"{len(photos)} photographs": measure(few),
            f"a list of {paths:,} paths": measure(listed),
            f"a folder of {images:,} images, into a folder": measure(many, *output),
            f"a folder of {images:,} images, without --output": measure(many),
        }
    print(f"{cpu_name()}, OMP_NUM_THREADS=1\n")
    header = ["until the first caption", "seconds", "of the processor", "MiB at most"]
    cells = [
        [source, f"{cost.wall_seconds:.1f}", f"{cost.cpu_seconds:.1f}", f"{cost.peak_mib}"]
        for source, cost in rows.items()
    ]
    print(markdown_table([header, *cells]))


def _make_small(folder: Path) -> list[Path]:
    """Write small copies of the example photographs, and return their paths."""
    folder.mkdir()
    files = []
    for photo in sorted(EXAMPLES.glob("*.jpg")):
        with Image.open(photo) as image:
            image.resize((SIDE, SIDE)).save(folder / photo.name)
        files.append(folder / photo.name)
    return files


def measure(source: Path, *options: str) -> Cost:
    """Run a command until its first caption or its first part, and end it."""
    command = [sys.executable, "-m", "captioner", "caption", str(source), *options]
    start = time.monotonic()
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    ) as process:
        if options:
            part = source.parent / "captions" / "part-00000000.jsonl"
            while not part.exists():
                time.sleep(0.002)
        elif process.stdout:
            process.stdout.readline()
        wall = time.monotonic() - start
        ticks = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[11:13]
        status = Path(f"/proc/{process.pid}/status").read_text()
        process.kill()
    cpu = sum(map(int, ticks)) / os.sysconf("SC_CLK_TCK")
    return Cost(wall, cpu, int(status.split("VmHWM:")[1].split()[0]) // 1024)


if __name__ == "__main__":
    run_app(app, "experiments.first_caption")
