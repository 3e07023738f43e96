"""What every captioner of images does, whatever computes its captions. Imports no torch."""

from __future__ import annotations

import operator
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import (
    TYPE_CHECKING,
    Any,
    Protocol,
    TypeAlias,
    TypedDict,
    Unpack,
    cast,
    overload,
)

import numpy as np

from captioner.captions import Caption
from captioner.data.images import OneImage, ReadableImage, is_image
from captioner.devices import BATCH_SIZE, LARGEST
from captioner.errors import ImageError, UsageError, parameter
from captioner.text.tokenizer import Vocabulary

if TYPE_CHECKING:
    from torch import Tensor

    from captioner.config.schema import DecodingConfig

Decoding: TypeAlias = "DecodingConfig | Mapping[str, object]"
"""All decoding settings, or those that differ from the model folder's, as in {"beam": 5}."""


class Calibration(Protocol):
    """The result of `captioner calibrate`: `ConfidenceConfig`, or what a folder stores of it."""

    @property
    def temperature(self) -> float:
        """A word's confidence is its probability ** (1 / temperature)."""

    @property
    def threshold(self) -> float | None:
        """Captions whose confidence is below it are not sure."""


class _Options(TypedDict, total=False):
    """Keyword arguments of `caption`, for its overloads."""

    decoding: Decoding | None
    explain: bool
    batch_size: int


class BaseCaptioner(ABC):
    """Captions images and scores captions: the base class of all captioners.

    A subclass sets the attributes, and computes what is abstract here.
    """

    vocabulary: Vocabulary
    crops: bool  # whether the model sees the center of an image only

    @property
    @abstractmethod
    def calibration(self) -> Calibration | None:
        """How confidences follow from probabilities; None: there are none."""

    @abstractmethod
    def build_search(
        self, decoding: Decoding | None, batch_size: int, sources: object = None
    ) -> tuple[Any, Any]:
        """Return all decoding settings, and the search that they describe.

        Raises:
            UsageError: a setting is not valid, or does not fit this model or the memory.
        """

    @overload  # a str is an iterable of str: the first overload wins
    def caption(  # type: ignore[overload-overlap]
        self, images: OneImage, **options: Unpack[_Options]
    ) -> Caption: ...
    @overload  # one image or a batch; both are iterable
    def caption(  # type: ignore[overload-overlap]
        self, images: np.ndarray | Tensor, **options: Unpack[_Options]
    ) -> Caption | list[Caption]: ...
    @overload
    def caption(
        self, images: Iterable[ReadableImage], **options: Unpack[_Options]
    ) -> list[Caption]: ...

    def caption(
        self,
        images: ReadableImage | Iterable[ReadableImage],
        *,
        decoding: Decoding | None = None,
        explain: bool = False,
        batch_size: int = BATCH_SIZE,
    ) -> Caption | list[Caption]:
        """Return the caption of one image, or a list of the captions of several, in their order.

        Args:
            images: an image: a path; the content of a file as bytes, bytearray, memoryview or an
                open binary file; a Pillow image; an array (H, W, 3) or a tensor (3, H, W) in RGB,
                of uint8 or of floats in 0..1 (see `captioner.data.arrays.to_pillow` for others).
                Or several: an iterable of these, an array (B, H, W, 3) or a tensor (B, 3, H, W).
            decoding: settings that differ from the model folder's, as in {"beam": 5}.
            explain: also compute which parts of the image each word depends on. This costs little
                for a model with attention. For other models and ensembles it takes 50 times longer.
            batch_size: images that are processed at a time.

        Raises:
            ImageError: an image cannot be read. `stream` continues after such an image.
            UsageError: `decoding` is not valid, or `images` is a mapping.
        """
        if is_image(images):
            one = [cast(ReadableImage, images)]
            [caption] = self.caption(one, decoding=decoding, explain=explain, batch_size=batch_size)
            return caption
        captions = []
        several = cast(Iterable[ReadableImage], images)
        for result in self.stream(
            several, decoding=decoding, explain=explain, batch_size=batch_size
        ):
            if isinstance(result, ImageError):
                raise result
            captions.append(result)
        return captions

    @abstractmethod
    def stream(
        self,
        images: Iterable[ReadableImage],
        *,
        decoding: Decoding | None = None,
        explain: bool = False,
        batch_size: int = BATCH_SIZE,
    ) -> Iterator[Caption | ImageError]:
        """Yield a caption for each image, in order, or the `ImageError` of one that cannot be read.

        The next batch of images is read while one is captioned. No more are held in memory. A
        list, or what else has a length and indices, is captioned in full batches. Another iterable
        is asked for images in a thread of its own, and they are captioned as they come: a batch is
        run when no image follows for 50 ms. An exception of the iterable is raised after the
        captions of the images before it.

        Raises:
            UsageError: `decoding` is not valid, or `images` is one image or a mapping.
        """

    @abstractmethod
    def score(
        self,
        images: Sequence[ReadableImage],
        captions: Sequence[Sequence[str]],
        *,
        batch_size: int = BATCH_SIZE,
    ) -> Iterator[list[Caption] | ImageError]:
        """Yield given captions of each image with their log-probabilities; unknown words are <unk>.

        Raises:
            UsageError: `captions` does not have one sequence of captions for each image, or
                `images` is one image or a mapping.
        """


def bytes_of_image(size: int) -> int:
    """Return about how much memory an image of `size` x `size` pixels takes while it is encoded."""
    # Two batches of images, as one is read ahead, and the largest grids of a small CNN: in torch, a
    # ResNet-18 takes 10 times the memory of its images, an EfficientNet-Lite0 21 times.
    return 10 * 3 * 4 * size**2


def check_batch_size(batch_size: object) -> None:
    """Raise a UsageError unless a batch size is a positive integer, such as one of numpy."""
    try:
        size = operator.index(batch_size)  # type: ignore[arg-type]  # else a TypeError
    except TypeError:
        size = 0
    if isinstance(batch_size, bool) or not 1 <= size <= LARGEST:
        shown = repr(batch_size)[:20] if abs(size) <= LARGEST else "out of range"
        raise UsageError(
            f"{parameter('batch_size')} is {shown}: use an integer from 1 to {LARGEST}"
        )


@contextmanager
def errors_of_settings(*, are_stored: bool) -> Iterator[None]:
    """Say of a wrong setting that the model folder stores it, if it does, and how to change it."""
    try:
        yield
    except UsageError as error:
        if not are_stored:
            raise
        raise UsageError(
            f"{error}; the model folder stores this setting: change it with captioner "
            "defaults --model FOLDER"
        ) from None
