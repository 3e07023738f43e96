"""Image files as they are: can they be read, how large, which content, which picture. Knows no captions."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from captioner.data.images import Header, read_header, read_image
from captioner.errors import ImageError
from captioner.threads import map_ahead

THREADS = 4  # more only wait for each other: a header is read by Python itself
ENOUGH = 36  # pixels of the short side: four for each of dHash's rows and columns
FLAT = 8  # grey levels between the darkest and the lightest part, below which a picture shows nothing to know it by


class Inspection(NamedTuple):
    """What was found in an image that can be read to its end."""

    header: Header
    content: bytes  # SHA-256 of the file
    picture: int | None  # dHash, 64 bits; None of an even surface


def inspect_images(paths: Iterable[Path]) -> Iterator[Inspection | ImageError]:
    """Inspect files in threads, in order.

    Each is decoded to its end, since nothing else finds all truncated files; a JPEG at an eighth of its size or a
    little above, which costs little more than reading it.
    """
    return map_ahead(_inspect, paths, threads=THREADS)


def difference_hash(picture: Image.Image) -> int | None:
    """Give 64 bits that survive other sizes, encodings and brightness: dHash (Krawetz 2013, "Kind of like that").

    The picture is shrunk to 9 x 8 grey parts; each bit says whether a part is lighter than the one to its left.
    """
    small = picture.convert("L").resize((9, 8), Image.Resampling.BOX)
    grey = np.asarray(small)  # (8, 9)
    if int(grey.max()) - int(grey.min()) < FLAT:
        return None
    return int.from_bytes(np.packbits(grey[:, 1:] > grey[:, :-1]).tobytes(), "big")


def _inspect(path: Path) -> Inspection | ImageError:
    try:
        header = read_header(path)
        picture = read_image(path, at_least=ENOUGH)
        with path.open("rb") as file:
            content = hashlib.file_digest(file, "sha256").digest()
    except ImageError as error:
        return error
    except OSError as error:
        return ImageError(str(path), (error.strerror or "cannot be read").lower())
    return Inspection(header, content, difference_hash(picture))
