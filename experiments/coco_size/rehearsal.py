"""Rehearse COCO at its true size: python -m experiments.coco_size.rehearsal --help.

118,287 names of a few photographs, and 591,753 captions drawn at random, in COCO's format and in
Karpathy's: what an annotation file, the caches, an epoch, the reward and an evaluation take.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from experiments.coco_size.data import TRAIN_IMAGES, Files, make_data
from experiments.coco_size.measured import Measured, run
from experiments.command import new_app, run_app
from experiments.reporting import machine_name, markdown_table

BATCH = 256  # images of a step, as in configs/coco.yaml
SMALL = (  # a network that two cores can train; the data is COCO's
    "encoder.trunk=small_cnn",
    "encoder.image_size=64",
    "encoder.weights=none",
    "decoder.hidden_size=128",
    "decoder.embed_size=128",
    "data.min_count=500",  # each caption is drawn some 24 times
    "training.phases=[{epochs: 1, learning_rate: 2e-3}]",
    "training.ema=0",
)

app = new_app()


@app.command(
    epilog="Example: python -m experiments.coco_size.rehearsal /tmp/coco --images photos/ "
    "--captions captions_val2017.json"
)
def rehearse(
    folder: Annotated[Path, typer.Argument(help="For data and runs; some 2 GB.")],
    images: Annotated[
        str, typer.Option(metavar="GLOB_OR_FOLDER", help="A few hundred small photographs.")
    ],
    captions: Annotated[
        list[Path], typer.Option(metavar="FILE", help="Annotations to draw captions from.")
    ],
    scale: Annotated[float, typer.Option(min=0.0001, max=10, help="Of COCO's size.")] = 1.0,
    seed: Annotated[int, typer.Option(help="Of the captions that are drawn.")] = 0,
    file: Annotated[Path | None, typer.Option("--json", help="Also write JSON.")] = None,
) -> None:
    """Print the seconds and the memory of each step of training on data of COCO's size."""
    files = make_data(folder, images, captions, scale=scale, seed=seed)
    half = max(1, round(TRAIN_IMAGES * scale / BATCH / 2))  # steps
    cached = folder / "runs" / "cached"
    rows = [("step", "seconds", "largest memory (MB)", "detail")]
    steps = {
        "check of COCO's file": lambda: _check(files),
        "COCO's file, first step": lambda: _train(folder / "runs" / "images", files, "first step"),
        "Karpathy's file, first step": lambda: _train(
            folder / "runs" / "karpathy", files, "first step", karpathy=True
        ),
        "features, then half an epoch": lambda: _train(cached, files, "new", max_steps=half),
        "resumed, the other half": lambda: _train(cached, files, "resume"),
        "the reward of an epoch": lambda: _reward(files),
        "evaluation on dev": lambda: _evaluate(cached / "best", files),
    }
    results = {}
    for name, step in steps.items():
        typer.echo(f"rehearsal: {name}", err=True)
        measured, detail = step()
        results[name] = {"seconds": measured.seconds, "megabytes": measured.megabytes} | detail
        shown = ", ".join(f"{key} {value:,.1f}" for key, value in detail.items())
        rows.append((name, f"{measured.seconds:.0f}", f"{measured.megabytes:.0f}", shown))
    typer.echo(f"# {machine_name()}, scale {scale:g}, seed {seed}")
    typer.echo(markdown_table(rows))
    if file is not None:
        file.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


Step = tuple[Measured, Mapping[str, float]]


def _check(files: Files) -> Step:
    command = [
        "-m",
        "captioner",
        "check",
        str(files.train),
        "--images",
        str(files.images / "train2017"),
    ]
    return run([sys.executable, *command]), {}


def _train(
    output: Path,
    files: Files,
    stage: str,
    *,
    karpathy: bool = False,
    max_steps: int | None = None,
) -> Step:
    """Train in a child, and return when its first and last steps were; `stage` as in `steps`."""
    if karpathy:
        of_train = {"annotations": files.karpathy, "images": files.images, "split": "train"}
        of_dev = {**of_train, "split": "val"}
    else:
        of_train = {"annotations": files.train, "images": files.images / "train2017"}
        of_dev = {"annotations": files.dev, "images": files.images / "val2017"}
    sources = [
        f"data.{split}={json.dumps({key: str(value) for key, value in source.items()})}"
        for split, source in (("train", of_train), ("dev", of_dev))
    ]
    caches = stage != "first step"
    changes = [*SMALL, *sources, f"training.cache_features={str(caches).lower()}"]
    if max_steps is not None:
        changes.append(f"training.max_steps={max_steps}")
    return _child("train", str(output), stage, *changes)


def _reward(files: Files) -> Step:
    return _child("reward", str(files.train))


def _evaluate(model: Path, files: Files) -> Step:
    command = [
        "-m",
        "captioner",
        "evaluate",
        "--annotations",
        str(files.dev),
        "--model",
        str(model),
    ]
    return run([sys.executable, *command, "--images", str(files.images / "val2017")]), {}


def _child(*arguments: str) -> Step:
    measured = run([sys.executable, "-m", "experiments.coco_size.steps", *arguments])
    return measured, json.loads(measured.stdout.splitlines()[-1])


if __name__ == "__main__":
    run_app(app, "experiments.coco_size.rehearsal")
