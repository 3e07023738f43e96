"""Put a trained model into the package, as float16: python scripts/bundle.py runs/flickr8k/best."""

from __future__ import annotations

from argparse import ArgumentParser

from captioner import Captioner
from captioner.models.folder import BUNDLED

CARD = BUNDLED / "README.md"


def main(folder: str) -> None:
    """Replace the bundled model, and keep its model card."""
    card = CARD.read_text(encoding="utf-8") if CARD.exists() else None
    Captioner.from_pretrained(folder, device="cpu").save_pretrained(BUNDLED, half=True)
    if card:
        CARD.write_text(card, encoding="utf-8")
    size = sum(file.stat().st_size for file in BUNDLED.iterdir()) / 2**20
    print(f"{BUNDLED}: {size:.1f} MiB; now update its model card with `captioner evaluate`")


if __name__ == "__main__":
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("folder", help="a model folder")
    main(parser.parse_args().folder)
