"""Put a trained model into the package, in half precision: python scripts/bundle.py runs/flickr8k/best."""

from __future__ import annotations

import sys
from pathlib import Path

from captioner import Captioner
from captioner.models.folder import BUNDLED

CARD = "README.md"


def main(folder: str) -> None:
    """Keep the model card that is there, and replace the model."""
    card = (BUNDLED / CARD).read_text(encoding="utf-8") if (BUNDLED / CARD).exists() else None
    Captioner.from_pretrained(folder, device="cpu").save_pretrained(BUNDLED, half=True)
    if card:
        (BUNDLED / CARD).write_text(card, encoding="utf-8")
    size = sum(file.stat().st_size for file in Path(BUNDLED).iterdir()) / 2**20
    print(
        f"{BUNDLED}: {size:.1f} MiB; now bring its model card up to date with `captioner evaluate`"
    )


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(sys.argv[1])
