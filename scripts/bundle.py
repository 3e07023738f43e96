"""Put a trained model into the package, as float16: python scripts/bundle.py runs/flickr8k/best."""

from __future__ import annotations

from argparse import ArgumentParser

from captioner import Captioner
from captioner.console import program
from captioner.models.folder import BUNDLED


def main(folder: str) -> None:
    """Replace the bundled model. Its model card is kept."""
    Captioner.from_pretrained(folder, device="cpu").save_pretrained(BUNDLED, half=True)
    size = sum(file.stat().st_size for file in BUNDLED.iterdir()) / 2**20
    print(f"{BUNDLED}: {size:.1f} MiB; now update its model card with `captioner evaluate`")


if __name__ == "__main__":
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("folder", help="a model folder")
    with program("bundle"):
        main(parser.parse_args().folder)
