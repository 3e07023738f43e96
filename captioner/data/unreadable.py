"""Which images of a split cannot be read, found out before it is used. Knows no policy."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from captioner.data.datasets import Example
from captioner.data.images import read_image
from captioner.data.loading import image_workers
from captioner.errors import ImageError
from captioner.threads import map_ahead


def unreadable(examples: Sequence[Example], *, at_least: int) -> Iterator[tuple[Example, ImageError | None]]:
    """Read each image as training would, `at_least` pixels wide and high, and say what is wrong with it, if anything.

    Pillow decodes beside Python, so threads are enough.
    """

    def problem(example: Example) -> ImageError | None:
        try:
            read_image(example.path, at_least=at_least)
        except ImageError as error:
            return error
        return None

    yield from zip(examples, map_ahead(problem, examples, threads=image_workers()), strict=True)
