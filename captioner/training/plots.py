"""What a run leaves to look at: curves.png and samples.png."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont, ImageOps

from captioner.data.datasets import Example
from captioner.data.images import read_image


def read_log(folder: Path) -> list[dict[str, Any]]:
    """Give the lines of a run's metrics.jsonl."""
    return [
        json.loads(line)
        for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    ]


def draw_curves(folder: Path) -> None:
    """Draw curves.png from metrics.jsonl: losses on train and dev, BLEU-4 and CIDEr-D, over steps."""
    if not find_spec("matplotlib"):
        return
    from matplotlib.figure import Figure

    lines = read_log(folder)
    figure = Figure(figsize=(10, 4), layout="constrained")
    losses, scores = figure.subplots(1, 2)
    for axes, names in (
        (losses, ("loss", "dev_loss", "free_running_loss")),
        (scores, ("Bleu_4", "CIDEr")),
    ):
        for name in names:
            points = [(line["step"], line[name]) for line in lines if name in line]
            if points:
                steps, values = zip(*points, strict=True)
                marker = "" if name == "loss" else "o"
                axes.plot(steps, values, marker=marker, markersize=3, linewidth=1, label=name)
        axes.set_xlabel("step")
        axes.grid(alpha=0.3)
        axes.legend()
    losses.set_title("loss per word (natural logarithm)")
    scores.set_title("dev, in the model's own words (fractions)")
    figure.savefig(folder / "curves.png", dpi=110)


def draw_samples(
    path: Path, examples: Sequence[Example], captions: Mapping[int | str, str], *, columns: int = 4
) -> None:
    """Draw photographs in a grid, each with the model's caption (black) and one that a person wrote (grey)."""
    side, text, margin = 220, 84, 10
    rows = -(-len(examples) // columns)
    sheet = Image.new(
        "RGB", (columns * (side + margin) + margin, rows * (side + text + margin) + margin), "white"
    )
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(13)
    for index, example in enumerate(examples):
        left = margin + index % columns * (side + margin)
        top = margin + index // columns * (side + text + margin)
        photo = ImageOps.contain(read_image(example.path, at_least=side), (side, side))
        sheet.paste(photo, (left + (side - photo.width) // 2, top + (side - photo.height) // 2))
        below = top + side + 4
        for said, colour in (
            (captions[example.image_id], "black"),
            *((one, "gray") for one in example.captions[:1]),
        ):
            lines = _wrap(said, font, side)
            draw.multiline_text((left, below), "\n".join(lines), fill=colour, font=font, spacing=2)
            below += 17 * len(lines)
    sheet.save(path)


def _wrap(
    text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int, limit: int = 3
) -> list[str]:
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if font.getlength(longer) <= width:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines[:limit]
