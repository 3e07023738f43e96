"""Leakage: images that two splits share, by id, by content, or as near-duplicates."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from captioner.data.datasets import Example, StoredImage
from captioner.data.images import HasRead, Header, hash_image, read_header, read_image
from captioner.data.problems import Problems
from captioner.data.streaming import map_ahead
from captioner.errors import ImageError
from captioner.progress import track

THREADS = 4  # more do not help: headers are read in Python code, by one thread at a time
COLUMNS, ROWS = 9, 8  # of a thumbnail; dHash compares the neighbours in each row
MIN_SIDE = 36  # decoded pixels of the short side; thumbnails average over at least 4 each

MAX_DISTANCE = 8
"""Largest number of differing bits, of 64, between the hashes of near-duplicates."""

MIN_CORRELATION = 0.95
"""Smallest correlation between the thumbnails (216 values) of near-duplicates."""

LUMINANCE = (0.299, 0.587, 0.114)  # of R, G, B (ITU-R BT.601)
BLOCK_SIZE = 4_000_000  # pairs compared at a time, 32 MB

Thumbnails = NDArray[np.uint8]
"""(n, ROWS, COLUMNS, 3) RGB."""


class ImageInfo(NamedTuple):
    """The data of a readable image that the check compares."""

    header: Header
    sha256: str  # of the file
    thumbnail: bytes  # (ROWS, COLUMNS, 3) RGB


def read_image_infos(paths: Iterable[Path | StoredImage]) -> Iterator[ImageInfo | ImageError]:
    """Read image files in threads and yield the results in order.

    Each image is decoded completely, the only way to find all truncated files. A JPEG is decoded
    at about an eighth of its size, which takes little longer than reading the file.
    """
    return map_ahead(_read_image_info, paths, threads=THREADS)


def _read_image_info(path: Path | HasRead) -> ImageInfo | ImageError:
    try:
        header = read_header(path)
        image = read_image(path, min_side=MIN_SIDE)
        digest = hash_image(path)
    except ImageError as error:
        return error
    except OSError as error:
        return ImageError(str(path), (error.strerror or "cannot be read").lower())
    thumbnail = image.resize((COLUMNS, ROWS), Image.Resampling.BOX)
    return ImageInfo(header, digest, thumbnail.tobytes())


def record_shared_images(
    problems: Problems,
    first: Sequence[Example],
    second: Sequence[Example],
    infos: Mapping[Path | StoredImage, ImageInfo],
) -> None:
    """Record each image of `second` that is in `first` too: by id, else content, else thumbnail.

    The same id with different content is not reported: some data sets number each split from 1.
    """

    def content(example: Example) -> str | None:
        return infos[example.path].sha256 if example.path in infos else None

    by_id = {example.image_id: example for example in first}
    by_content = {content(example): example for example in first if content(example)}
    unmatched = []
    for example in second:
        same_id, same_content = by_id.get(example.image_id), by_content.get(content(example))
        # An image that cannot be read may have the same content.
        if same_id and len({content(same_id), content(example)} - {None}) < 2:
            problems.add_warning("images in both splits, by id", [repr(example.image_id)])
        elif same_content:
            problems.add_warning(
                "images in both splits, by content", [_pair(same_content, example)]
            )
        else:
            unmatched.append(example)
    readable = [
        [example for example in examples if example.path in infos]
        for examples in (first, unmatched)
    ]
    thumbnails = [
        stack([infos[example.path].thumbnail for example in examples]) for examples in readable
    ]
    for duplicate in find_near_duplicates(*thumbnails):
        pair = _pair(readable[0][duplicate.reference], readable[1][duplicate.query])
        case = f"{pair} ({duplicate.distance} bits, correlation {duplicate.correlation:.3f})"
        problems.add_warning("near-duplicates in both splits, by dHash and thumbnail", [case])


def _pair(first: Example, second: Example) -> str:
    return f"{first.image_id!r} and {second.image_id!r}"


class NearDuplicate(NamedTuple):
    """A query image and the reference image that it nearly equals."""

    reference: int  # index
    query: int  # index
    distance: int  # number of bits in which their hashes differ
    correlation: float  # of their thumbnails


def stack(thumbnails: Sequence[bytes]) -> Thumbnails:
    """Return thumbnails as one array (n, ROWS, COLUMNS, 3)."""
    return np.frombuffer(b"".join(thumbnails), dtype=np.uint8).reshape(-1, ROWS, COLUMNS, 3)


def difference_hashes(thumbnails: Thumbnails) -> NDArray[np.uint64]:
    """Compute the dHash (n,) of thumbnails: 1 where a pixel is brighter than its left neighbour."""
    grey = thumbnails @ np.array(LUMINANCE, dtype=np.float32)  # (n, ROWS, COLUMNS)
    bits = np.packbits(grey[..., 1:] > grey[..., :-1], axis=-1)  # (n, ROWS, 1)
    return bits.reshape(-1, ROWS).view(np.uint64).ravel()


def find_near_duplicates(references: Thumbnails, queries: Thumbnails) -> Iterator[NearDuplicate]:
    """Yield the best reference for each query that is a near-duplicate of any."""
    reference_hashes = difference_hashes(references)  # (r,)
    query_hashes = difference_hashes(queries)  # (q,)
    # All hashes are compared with each other, in blocks that need little memory.
    rows = max(1, BLOCK_SIZE // max(1, len(references)))
    starts = range(0, len(queries), rows)
    for start in track(starts, total=len(starts), doing="comparing splits", unit="blocks"):
        # (rows, r)
        distances = np.bitwise_count(query_hashes[start : start + rows, None] ^ reference_hashes)
        is_near = distances <= MAX_DISTANCE
        for row in np.flatnonzero(is_near.any(axis=1)):
            candidates = np.flatnonzero(is_near[row])
            correlations = _correlate(references[candidates], queries[start + row])  # (candidates,)
            best = int(correlations.argmax())
            if correlations[best] >= MIN_CORRELATION:
                reference = int(candidates[best])
                distance, correlation = int(distances[row, reference]), float(correlations[best])
                yield NearDuplicate(reference, start + int(row), distance, correlation)


def _correlate(thumbnails: Thumbnails, thumbnail: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Compute the correlation (n,) of thumbnails with one (ROWS, COLUMNS, 3); 0 if it is plain."""
    values = thumbnails.reshape(len(thumbnails), -1).astype(np.float32)  # (n, ROWS * COLUMNS * 3)
    values -= values.mean(axis=1, keepdims=True)
    other = thumbnail.ravel().astype(np.float32) - thumbnail.mean(dtype=np.float32)
    norms = np.linalg.norm(values, axis=1) * np.linalg.norm(other)  # (n,)
    return values @ other / np.maximum(norms, 1e-6)  # type: ignore[no-any-return]
