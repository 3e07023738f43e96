"""Image files as they are: can they be read, how large, which content, which picture. Knows no captions."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from captioner.data.images import Header, map_ahead, read_header, read_image
from captioner.errors import ImageError

THREADS = 4  # more only wait for each other: a header is read by Python itself
COLUMNS, ROWS = 9, 8  # of a thumbnail: dHash compares each of eight parts of a row with the one before
ENOUGH = 36  # pixels of the short side from which thumbnails are made: four for each of their parts


class Inspection(NamedTuple):
    """What was found in an image that can be read to its end."""

    header: Header
    content: bytes  # SHA-256 of the file
    thumbnail: bytes  # (ROWS, COLUMNS, 3) RGB


def inspect_images(paths: Iterable[Path]) -> Iterator[Inspection | ImageError]:
    """Inspect files in threads, in order.

    Each is decoded to its end, since nothing else finds all truncated files; a JPEG at an eighth of its size or a
    little above, which costs little more than reading it.
    """
    return map_ahead(_inspect, paths, threads=THREADS)


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
    return Inspection(header, content, picture.resize((COLUMNS, ROWS), Image.Resampling.BOX).tobytes())
