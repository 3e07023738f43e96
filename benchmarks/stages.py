"""Measure what each stage of captioning costs with torch: python -m benchmarks.stages --help.

Costs are CPU seconds of one thread (`time.process_time`), so other work on the machine hardly
changes them. Each round times the stages, and then `Captioner.caption` of the same photographs as
a check: it does the same work, but reads the files in threads.
"""

from __future__ import annotations

import json
import math
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from itertools import cycle, islice
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Annotated, Any

import typer

from benchmarks.benchmark import describe_machine
from captioner.cli.options import ModelOption
from captioner.config.schema import INFERENCE
from captioner.data.images import find_images, read_header, read_image
from captioner.models.folder import resolve
from captioner.storage import atomic_file
from experiments.command import new_app, run_app
from experiments.reporting import MISSING, markdown_table

if TYPE_CHECKING:
    from captioner.inference.torch_captioner import TorchCaptioner

ROOT = Path(__file__).parents[1]
AT_LEAST = 32  # captions a round: the photographs are repeated to fill so many, in whole batches
BEAM = {"method": "beam"}  # also for a model folder whose own method is sampling
ONCE = ("once: import of captioner and torch", "once: load the model")
IMPORT_AND_LOAD = """
import sys, time
start = time.process_time()
import torch
from captioner import Captioner
imported = time.process_time()
Captioner.from_pretrained(sys.argv[1], device="cpu", backend="torch")
print(imported - start, time.process_time() - imported)
"""

app = new_app()


@app.command(epilog="Example: python -m benchmarks.stages --model runs/flickr8k/best --rounds 7")
def stages(
    model: ModelOption = None,
    images: Annotated[
        str, typer.Option(metavar="GLOB_OR_FOLDER", help="Photographs.", show_default="examples/")
    ] = str(ROOT / "examples"),
    batch_size: Annotated[int, typer.Option(min=1)] = INFERENCE.batch_size,
    rounds: Annotated[int, typer.Option(min=1, help="Measurements, after a warm-up.")] = 5,
    file: Annotated[Path | None, typer.Option("--json", help="Also write JSON.")] = None,
) -> None:
    """Print CPU seconds of each stage, from the file to the sentence, with beam search."""
    os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = "1"
    folder, files = resolve(model), find_images([images]).files
    import torch  # not needed for --help

    from captioner.inference.torch_captioner import TorchCaptioner

    torch.set_num_threads(1)
    captioner = TorchCaptioner.from_pretrained(folder, device="cpu")
    facts = describe_machine(captioner.device, captioner.precision, rounds)
    facts |= describe_work(captioner, files) | {"batch": batch_size}
    typer.echo("# " + ", ".join(f"{name} {value}" for name, value in facts.items()))
    once = measure_once(folder)
    count = batch_size * math.ceil(max(len(files), AT_LEAST) / batch_size)
    seconds, whole = measure(captioner, list(islice(cycle(files), count)), batch_size, rounds)
    typer.echo(table(once, seconds, whole))
    if file is not None:
        values = {"once": once, "image": seconds, "sum": sum(seconds.values()), "check": whole}
        with atomic_file(file) as output:
            output.write(json.dumps({**facts, **values}, indent=2) + "\n")


def describe_work(captioner: TorchCaptioner, files: Sequence[Path]) -> dict[str, Any]:
    """Return the settings and the sizes of the images that the results depend on."""
    encoder, beam = captioner.config.encoder, captioner.config.decoding.beam
    sizes = sorted((read_header(file)[:2] for file in files), key=math.prod)
    pixels = " to ".join(f"{width} x {height}" for width, height in (sizes[0], sizes[-1]))
    facts = {"trunk": encoder.trunk, "input": encoder.image_size, "beam": beam}
    return facts | {"photographs": len(files), "pixels": pixels}


def measure_once(folder: Path) -> dict[str, float]:
    """Return the CPU seconds of what a new process pays once: the imports, and loading."""
    command = [sys.executable, "-c", IMPORT_AND_LOAD, str(folder.resolve())]
    shown = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, cwd=ROOT).stdout
    return dict(zip(ONCE, map(float, shown.split()), strict=True))


def measure(
    captioner: TorchCaptioner, files: Sequence[Path], batch_size: int, rounds: int
) -> tuple[dict[str, float], float]:
    """Return CPU seconds an image: of each stage, and of `Captioner.caption`; medians of rounds."""
    measured, whole = [], []
    for _ in range(rounds + 1):  # the first is the warm-up
        measured.append(caption_in_stages(captioner, files, batch_size)[1])
        start = time.process_time()
        captioner.caption(files, decoding=BEAM, batch_size=batch_size)
        whole.append(time.process_time() - start)
    seconds = {stage: median(each[stage] for each in measured[1:]) for stage in measured[0]}
    image = {stage: total / len(files) for stage, total in seconds.items()}
    return image, median(whole[1:]) / len(files)


def caption_in_stages(
    captioner: TorchCaptioner, files: Sequence[Path], batch_size: int
) -> tuple[list[str], dict[str, float]]:
    """Caption files as `Captioner.caption` does; return the captions and each stage's seconds."""
    import numpy as np
    import torch

    from captioner.decoding.search import build_search
    from captioner.devices import autocast

    model: Any = captioner.step_model  # an EncoderDecoder, with folded batch norms
    settings, transform = captioner.decoding_config(BEAM), captioner.transform
    search = build_search(model.step, settings, captioner.vocabulary)
    to_caption, least = captioner._to_caption, settings.min_confidence
    steps: dict[str, Callable[[Any], Any]] = {  # each gets what the one before it returned
        "read and decode": lambda batch: [read_image(file) for file in batch],
        # (B, 3, size, size); the transform draws nothing from the generator
        "resize": lambda batch: torch.from_numpy(
            np.stack([transform(each, random.Random(0)) for each in batch])
        ),
        "encoder": model.encode,
        "search": lambda memory: search(model.decoder.init_state(memory), ()),
        "words and confidence": lambda hypotheses: [
            [to_caption(each, least) for each in ranked] for ranked in hypotheses
        ],
    }
    captions: list[str] = []
    seconds = dict.fromkeys(steps, 0.0)
    with torch.inference_mode(), autocast(captioner.device, captioner.precision):
        for first in range(0, len(files), batch_size):
            value: Any = files[first : first + batch_size]
            for stage, step in steps.items():
                start = time.process_time()
                value = step(value)
                seconds[stage] += time.process_time() - start
            captions += [best.text for best, *_ in value]
    return captions, seconds


def table(once: Mapping[str, float], seconds: Mapping[str, float], whole: float) -> str:
    """Return a Markdown table of what a process pays once and each image, with shares."""
    total = sum(seconds.values())
    rows = [(stage, f"{value:.2f}", MISSING) for stage, value in once.items()]
    image = {**seconds, "sum of an image's stages": total, "check: `Captioner.caption`": whole}
    rows += [(stage, f"{value:.5f}", f"{value / total:.1%}") for stage, value in image.items()]
    return markdown_table([("stage", "CPU seconds", "share"), *rows])


if __name__ == "__main__":
    run_app(app, "benchmarks.stages")
