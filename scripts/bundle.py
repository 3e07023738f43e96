"""Put a trained model into the package, as float16 and with its graphs.

python scripts/bundle.py runs/flickr8k/best
"""

from __future__ import annotations

from argparse import ArgumentParser

from captioner.console import program
from captioner.export.folder import write_with_graphs
from captioner.models.folder import BUNDLED, resolve
from captioner.storage import atomic_folder


def main(folder: str) -> None:
    """Replace the bundled model. Its model card is kept."""
    with atomic_folder(BUNDLED) as new:
        write_with_graphs(resolve(folder), new, half=True)
    size = sum(file.stat().st_size for file in BUNDLED.iterdir()) / 2**20
    print(f"{BUNDLED}: {size:.1f} MiB; now update its model card with `captioner evaluate`")


if __name__ == "__main__":
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("folder", help="a model folder")
    with program("bundle"):
        main(parser.parse_args().folder)
