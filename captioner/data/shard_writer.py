"""Write shards: tars of images with their captions, which WebDataset and img2dataset's users read.

A sample is `00000012.jpg`, the file as it was, with `00000012.txt`, its first caption, and
`00000012.json`, all of them. Equal data gives equal tars, byte by byte.
"""

from __future__ import annotations

import io
import json
import os
import tarfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from captioner.data.datasets import Example, StoredImage
from captioner.data.images import MAX_PIXELS, image_errors, open_image, read_image
from captioner.data.shards import BLOCK, TarMember
from captioner.data.streaming import map_ahead
from captioner.data.tar_index import SUFFIX, open_index
from captioner.errors import CaptionerError, ImageError, UsageError
from captioner.progress import Progress
from captioner.storage import atomic_binary_file, unfinished_files

SIZE = 10_000
"""Images of a shard, unless told otherwise, as in img2dataset."""

THREADS = 4  # that read and check images
MIN_SIDE = 36  # decoded pixels of the short side, to find truncated files
# The suffix tells the format, also where the name of the file is wrong or has none.
_SUFFIX_OF = {"JPEG": ".jpg", "PNG": ".png", "WEBP": ".webp", "GIF": ".gif", "TIFF": ".tif"}
_SUFFIX_OF |= {"BMP": ".bmp", "AVIF": ".avif", "JPEG2000": ".jp2", "PPM": ".ppm", "HEIF": ".heic"}


@dataclass(frozen=True)
class Sample:
    """What a shard holds of an image."""

    key: str
    suffix: str
    image: bytes
    text: bytes  # the content of the .txt file
    about: bytes  # of the .json file


def plan_shards(
    examples: Sequence[Example], *, size: int | None = None, megabytes: int | None = None
) -> list[range]:
    """Return which examples each shard holds: `size` of them, or files of about `megabytes`."""
    if megabytes is None:
        size = size or SIZE
        starts = range(0, len(examples), size)
        return [range(start, min(start + size, len(examples))) for start in starts]
    plan, first, total = [], 0, 0
    for number, example in enumerate(examples):
        needed = _file_size(example.path) + 6 * BLOCK  # three headers, two texts, and padding
        if number > first and total + needed > megabytes * 10**6:
            plan.append(range(first, number))
            first, total = number, 0
        total += needed
    return [*plan, range(first, len(examples))]


def _file_size(image: Path | StoredImage) -> int:
    try:
        if isinstance(image, Path):
            return image.stat().st_size
        return image.size if isinstance(image, TarMember) else len(image.read())
    except (OSError, CaptionerError):
        return 0  # writing says what is wrong


def write_shards(
    examples: Sequence[Example], folder: Path, plan: Sequence[range], progress: Progress
) -> list[ImageError]:
    """Write the shards of a plan with their indexes, and return the images that cannot be read.

    Shards that there are already are kept, if they hold these examples: a killed run continues.

    Raises:
        UsageError: the folder has a tar of other examples.
        CaptionerError: the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CaptionerError(
            f"{folder} cannot be made: {error.strerror or error}: choose another folder"
        ) from error
    names = [f"{number:05}.tar" for number in range(len(plan))]
    _check_folder(folder, names)
    errors: list[ImageError] = []
    for name, numbers in zip(names, plan, strict=True):
        kept = _kept(folder / name, examples, numbers)
        if kept is None:
            errors += _write(folder / name, examples, numbers, progress)
        else:
            errors += kept
            progress.skip(len(numbers))
    return errors


def _check_folder(folder: Path, names: Sequence[str]) -> None:
    """Remove what a killed process has left of these tars, and refuse others."""
    for file, name in unfinished_files(folder):
        if name.removesuffix(SUFFIX) in names:
            file.unlink(missing_ok=True)
    if others := sorted({each.name for each in folder.glob("*.tar")} - {*names}):
        raise UsageError(
            f"{folder} holds {others[0]}, which is not of this data set in shards of this size: "
            "choose another folder"
        )


def _kept(tar: Path, examples: Sequence[Example], numbers: range) -> list[ImageError] | None:
    """Return the images that a tar lacks since they cannot be read; None: it is to be written.

    Raises:
        UsageError: it holds other examples.
    """
    if not tar.exists():
        return None
    index = open_index(str(tar))
    rows = zip(index.sizes, index.captions, strict=True)
    stored = dict(zip(index.keys, rows, strict=True))
    for number in numbers:
        example = examples[number]
        found = stored.pop(_key(number), None)
        if found and found != (_file_size(example.path), [*example.captions]):
            stored[_key(number)] = found
    if stored or index.damage:
        what = index.damage or f"holds {min(stored)}, with another image or other captions"
        raise UsageError(f"{tar}: {what}: delete it, and it is written again, or choose a folder")
    missing = [number for number in numbers if _key(number) not in {*index.keys}]
    samples = [_read(number, examples[number]) for number in missing]
    errors = [each for each in samples if isinstance(each, ImageError)]
    return errors if len(errors) == len(samples) else None


def _write(
    tar: Path, examples: Sequence[Example], numbers: range, progress: Progress
) -> list[ImageError]:
    errors = []
    samples = map_ahead(lambda n: _read(n, examples[n]), numbers, threads=THREADS)

    def readable() -> Iterator[Sample]:
        for sample in samples:
            if isinstance(sample, ImageError):
                errors.append(sample)
            else:
                yield sample
            progress.advance(failed=isinstance(sample, ImageError))

    with (
        atomic_binary_file(tar) as file,
        tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as archive,
    ):
        write_samples(archive, readable())
    open_index(str(tar))  # which builds it
    return errors


def write_samples(archive: tarfile.TarFile, samples: Iterable[Sample]) -> None:
    """Add samples to a tar. Its bytes depend on them alone: no times, no users."""
    for sample in samples:
        for suffix, content in (
            (sample.suffix, sample.image),
            (".txt", sample.text),
            (".json", sample.about),
        ):
            info = tarfile.TarInfo(f"{sample.key}{suffix}")
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))


def _key(number: int) -> str:
    return f"{number:08}"


def _read(number: int, example: Example) -> Sample | ImageError:
    """Read an image completely, and return what a shard holds of it."""
    path = example.path
    try:
        with image_errors(path):
            content = path.read_bytes() if isinstance(path, Path) else path.read()
            image = open_image(io.BytesIO(content), MAX_PIXELS)
        read_image(content, min_side=MIN_SIDE)
    except ImageError as error:
        return ImageError(str(path), error.reason)
    name = path.member if isinstance(path, TarMember) else path.name
    about = {
        "captions": example.captions,
        "image_id": example.image_id,
        "file_name": os.path.basename(name),
        "width": image.width,
        "height": image.height,
    }
    return Sample(
        _key(number),
        _SUFFIX_OF[str(image.format)],
        content,
        example.captions[0].encode("utf-8", "replace"),
        json.dumps(about).encode(),  # in ASCII: also of half a surrogate pair
    )
