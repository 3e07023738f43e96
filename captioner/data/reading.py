"""Images in whatever form they come, read and transformed ahead of their use. Knows no captions."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from captioner.data.images import read_image
from captioner.data.transforms import Transform
from captioner.errors import ImageError

ImageLike = str | Path | bytes | Image.Image | Tensor
"""A file, its bytes, a Pillow image, or a tensor (3, height, width): uint8, or floats from 0 to 1."""


def read_ahead(images: Iterator[ImageLike], transform: Transform, *, size: int) -> Iterator[list[Tensor | ImageError]]:
    """Read and transform `size` images at a time in threads (Pillow works beside Python), one batch ahead."""

    def read(image: ImageLike) -> Tensor | ImageError:
        try:
            given = _to_pillow(image) if isinstance(image, Tensor) else image
            upright = read_image(given, at_least=transform.at_least)
            return transform(upright, random.Random(0))  # no preset for captioning draws from it
        except ImageError as error:
            return error

    with ThreadPoolExecutor(thread_name_prefix="read-image") as pool:
        pending = [pool.submit(read, image) for image in itertools.islice(images, size)]
        while pending:
            following = [pool.submit(read, image) for image in itertools.islice(images, size)]
            yield [task.result() for task in pending]
            pending = following


def _to_pillow(image: Tensor) -> Image.Image:
    if image.dim() != 3 or image.shape[0] != 3:
        raise ImageError("tensor", f"has shape {tuple(image.shape)}: expected (3, height, width)")
    if image.is_floating_point():
        image = (image.clamp(0, 1) * 255).round()
    return Image.fromarray(image.to("cpu", torch.uint8).permute(1, 2, 0).numpy())
