"""Draw docs/examples.png for the README and print its table: python scripts/draw_examples.py."""

from __future__ import annotations

from argparse import ArgumentParser
from pathlib import Path

from captioner import Captioner
from captioner.console import program
from captioner.data.datasets import Example
from captioner.data.images import find_images
from captioner.training.recorder import draw_samples

ROOT = Path(__file__).parents[1]


def main() -> None:
    """Caption the photographs of examples/, and draw them with their captions."""
    files = find_images([str(ROOT / "examples")]).files
    captions = Captioner.from_pretrained().caption(files)
    marks = ["unsure" if caption.sure is False else "" for caption in captions]
    draw_samples(
        ROOT / "docs" / "examples.png",
        [Example(file.name, file, ()) for file in files],
        [
            f"{caption.text} ({mark})" if mark else caption.text
            for caption, mark in zip(captions, marks, strict=True)
        ],
    )
    for file, caption, mark in zip(files, captions, marks, strict=True):
        print(f"| `examples/{file.name}` | {caption.text} | {mark} |")


if __name__ == "__main__":
    with program("draw_examples"):
        ArgumentParser(description=__doc__).parse_args()
        main()
