"""Download Flickr8k (Hodosh, Young and Hockenmaier 2013) as configs/flickr8k.yaml expects it.

The images and captions come from the mirror of Jason Brownlee, since the original page is gone. The
captions of each split are written in COCO's format. After an interruption, the same command
continues.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from downloads import Archive, fetch_all, new_app, report, run_app

from captioner.data.datasets import load_examples
from captioner.storage import atomic_file

MIRROR = "https://github.com/jbrownlee/Datasets/releases/download/Flickr8k"
EXAMPLE = "Example: python scripts/download_flickr8k.py --folder data/flickr8k"
TOKENS = "Flickr8k.token.txt"
SPLITS = ("train", "dev", "test")

app = new_app()


@app.command(epilog=EXAMPLE)
def download_flickr8k(
    folder: Annotated[Path, typer.Option(metavar="FOLDER", help="Folder of all files.")] = Path(
        "data/flickr8k"
    ),
    base_url: Annotated[
        str, typer.Option(metavar="URL", help="A mirror of the two zip files.")
    ] = MIRROR,
) -> None:
    """Download the 8,000 photographs of Flickr8k and their captions: 1.1 GB, twice until unpacked.

    The photographs are for research use only.
    """
    base = base_url.rstrip("/")
    lists = {split: folder / f"Flickr_8k.{split}Images.txt" for split in SPLITS}
    texts = frozenset({TOKENS, *(path.name for path in lists.values())})
    fetch_all([Archive(f"{base}/Flickr8k_text.zip", folder, texts)], folder)
    names = frozenset(name for path in lists.values() for name in path.read_text().split())
    fetch_all([Archive(f"{base}/Flickr8k_Dataset.zip", folder / "images", names)], folder)
    first_id = 1
    for split, path in lists.items():
        first_id += write_split(folder, split, path, first_id=first_id)
    report(f"complete: {folder}")


def write_split(folder: Path, split: str, names: Path, *, first_id: int) -> int:
    """Write the captions of a split in COCO's format, and return its number of images."""
    examples = load_examples(folder / TOKENS, folder / "images", str(names))
    images, annotations = [], []
    for image_id, example in enumerate(examples, start=first_id):
        images.append({"id": image_id, "file_name": example.path.name})
        for caption in example.captions:
            annotation_id = 5 * first_id + len(annotations)  # every image has five captions
            annotations.append({"id": annotation_id, "image_id": image_id, "caption": caption})
    with atomic_file(folder / f"captions_{split}.json") as file:
        json.dump({"images": images, "annotations": annotations}, file)
    return len(examples)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command."""
    run_app(app, arguments, name="download_flickr8k", example=EXAMPLE)


if __name__ == "__main__":
    main()
