"""The pictures of a run: curves.png and samples.png."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont, ImageOps

from captioner.data.datasets import Example
from captioner.data.images import read_image

_SIDE, _TEXT, _MARGIN, _LINE = 220, 84, 10, 17  # pixels of samples.png


def read_log(folder: Path) -> list[dict[str, Any]]:
    """Return the lines of a run's metrics.jsonl."""
    lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def draw_curves(folder: Path) -> None:
    """Draw curves.png from metrics.jsonl: losses of train and dev, BLEU-4 and CIDEr-D by step.

    Without matplotlib, nothing is drawn.
    """
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
    scores.set_title("scores of the generated captions of dev (fractions)")
    figure.savefig(folder / "curves.png", dpi=110)


def draw_samples(
    path: Path, examples: Sequence[Example], captions: Mapping[int | str, str], *, columns: int = 4
) -> None:
    """Draw a grid of images, each with the model's caption (black) and a reference (gray)."""
    width, height = _SIDE + _MARGIN, _SIDE + _TEXT + _MARGIN  # of a cell
    rows = -(-len(examples) // columns)
    sheet = Image.new("RGB", (columns * width + _MARGIN, rows * height + _MARGIN), "white")
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(13)
    for index, example in enumerate(examples):
        row, column = divmod(index, columns)
        left, top = _MARGIN + column * width, _MARGIN + row * height
        photo = ImageOps.contain(read_image(example.path, min_side=_SIDE), (_SIDE, _SIDE))
        sheet.paste(photo, (left + (_SIDE - photo.width) // 2, top + (_SIDE - photo.height) // 2))
        references = [(reference, "gray") for reference in example.captions[:1]]
        top += _SIDE + 4
        for caption, color in [(captions[example.image_id], "black"), *references]:
            lines = _wrap(caption, font, _SIDE)
            draw.multiline_text((left, top), "\n".join(lines), fill=color, font=font, spacing=2)
            top += _LINE * len(lines)
    sheet.save(path)


def _wrap(
    text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int, limit: int = 3
) -> list[str]:
    """Return the first `limit` lines of a text that is wrapped at `width` pixels."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if font.getlength(longer) <= width:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines[:limit]
