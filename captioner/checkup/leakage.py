"""Images that two splits share: by their ids, by their content, by their looks. Reads no file."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from captioner.console import track
from captioner.data.datasets import Example
from captioner.data.images import Header, map_ahead, read_header, read_image
from captioner.data.problems import Problems
from captioner.errors import ImageError

THREADS = 4  # more only wait for each other: a header is read by Python itself
COLUMNS, ROWS = (
    9,
    8,
)  # of a thumbnail: dHash compares each of eight parts of a row with the one before
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
    return Inspection(
        header, content, picture.resize((COLUMNS, ROWS), Image.Resampling.BOX).tobytes()
    )


def note_shared_images(
    problems: Problems,
    one: Sequence[Example],
    other: Sequence[Example],
    inspections: Mapping[Path, Inspection],
) -> None:
    """Note each image of `other` that stands in `one` too: by id; else by content; else by its looks.

    Ids that were counted from 1 for each split are no sign: the same id on other content is another image.
    """

    def content(example: Example) -> bytes | None:
        return inspections[example.path].content if example.path in inspections else None

    ids = {example.image_id: example for example in one}
    contents = {content(example): example for example in one if content(example)}
    unlike = []
    for example in other:
        named, same = ids.get(example.image_id), contents.get(content(example))
        if named and (
            content(named) == content(example) or None in (content(named), content(example))
        ):
            problems.tolerate("images in both splits, by id", [repr(example.image_id)])
        elif same:
            problems.tolerate("images in both splits, by content", [_pair(same, example)])
        else:
            unlike.append(example)
    known = [example for example in one if example.path in inspections]
    asked = [example for example in unlike if example.path in inspections]
    looks = [
        stack([inspections[example.path].thumbnail for example in examples])
        for examples in (known, asked)
    ]
    for twin in twins(*looks):
        kind = "near-duplicates in both splits, whose dHash and thumbnail are nearly the same"
        pair = _pair(known[twin.known], asked[twin.asked])
        problems.tolerate(kind, [f"{pair} ({twin.bits} bits, correlation {twin.correlation:.3f})"])


def _pair(one: Example, other: Example) -> str:
    return f"{one.image_id!r} and {other.image_id!r}"


NEAR = 8
"""Bits of 64 in which the hashes of near-duplicates differ at most."""

ALIKE = 0.95
"""Correlation of their thumbnails' 216 values, at least."""

LUMINANCE = (0.299, 0.587, 0.114)
BLOCK = 4_000_000  # pairs compared at a time: 32 MB

Thumbnails = NDArray[np.uint8]
"""(n, ROWS, COLUMNS, 3) RGB."""


class Twin(NamedTuple):
    """Two pictures that look alike, by their places in what was compared."""

    known: int
    asked: int
    bits: int  # in which their hashes differ
    correlation: float


def stack(thumbnails: Sequence[bytes]) -> Thumbnails:
    """Give thumbnails (n, ROWS, COLUMNS, 3) from their bytes."""
    return np.frombuffer(b"".join(thumbnails), dtype=np.uint8).reshape(-1, ROWS, COLUMNS, 3)


def difference_hashes(thumbnails: Thumbnails) -> NDArray[np.uint64]:
    """Give the dHash (n,) of each."""
    grey = thumbnails @ np.array(LUMINANCE, dtype=np.float32)  # (n, ROWS, COLUMNS)
    bits = np.packbits(grey[..., 1:] > grey[..., :-1], axis=-1)  # (n, ROWS, 1)
    return bits.reshape(-1, ROWS).view(np.uint64).ravel()


def twins(known: Thumbnails, asked: Thumbnails) -> Iterator[Twin]:
    """Give, for each picture `asked` for that looks like any `known` one, the one that it looks like most.

    All hashes are compared with all, block by block: little memory, and no pair is missed.
    """
    hashes, others = difference_hashes(known), difference_hashes(asked)
    rows = max(1, BLOCK // max(1, len(known)))
    starts = range(0, len(asked), rows)
    for start in track(starts, total=len(starts), doing="comparing splits", unit="blocks"):
        bits = np.bitwise_count(others[start : start + rows, None] ^ hashes)  # (rows, known)
        near = bits <= NEAR
        for row in np.flatnonzero(near.any(axis=1)):
            candidates = np.flatnonzero(near[row])
            alike = _correlations(known[candidates], asked[start + row])  # (candidates,)
            best = int(alike.argmax())
            if alike[best] >= ALIKE:
                chosen = int(candidates[best])
                yield Twin(chosen, start + int(row), int(bits[row, chosen]), float(alike[best]))


def _correlations(many: Thumbnails, one: Thumbnails) -> NDArray[np.float32]:
    """Correlate thumbnails (n, ROWS, COLUMNS, 3) with one (ROWS, COLUMNS, 3); an even surface with nothing."""
    values = many.reshape(len(many), -1).astype(np.float32)  # (n, ROWS * COLUMNS * 3)
    values -= values.mean(axis=1, keepdims=True)
    other = one.ravel().astype(np.float32) - one.mean(dtype=np.float32)
    size = np.linalg.norm(values, axis=1) * np.linalg.norm(other)
    return values @ other / np.maximum(size, 1e-6)  # type: ignore[no-any-return]
