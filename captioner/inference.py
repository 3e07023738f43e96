"""Photographs in, captions out."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import torch
from PIL import Image
from torch import Tensor

from captioner.build import build_model, build_search, load_weights
from captioner.config import DeviceName, ModelConfig, PrecisionName
from captioner.data.images import read_image
from captioner.data.transforms import build_transform
from captioner.devices import autocast, pick_device
from captioner.errors import ImageError
from captioner.model_folder import read_model, resolve, write_model
from captioner.models.captioning import CaptioningModel
from captioner.models.encoder import fold_batch_norms
from captioner.storage import new_folder
from captioner.text.tokenizer import detokenize
from captioner.text.vocabulary import Vocabulary

ImageLike = str | Path | bytes | Image.Image | Tensor
"""A file, its bytes, a Pillow image, or a tensor (3, height, width): uint8, or floats from 0 to 1."""


@dataclass(frozen=True)
class Caption:
    """What the model says of an image, and the natural logarithm of how probable it finds that."""

    text: str
    log_prob: float


class Captioner:
    """A trained model, ready to caption images.

    >>> Captioner.from_pretrained().caption("photo.jpg").text  # doctest: +SKIP
    'a dog is running through the grass'
    """

    def __init__(
        self,
        model: CaptioningModel,
        vocabulary: Vocabulary,
        config: ModelConfig,
        *,
        device: DeviceName = "auto",
        precision: PrecisionName = "auto",
    ) -> None:
        self.device = pick_device(device)
        self.model = model.to(self.device).eval()
        self._seer = CaptioningModel(fold_batch_norms(self.model.encoder), self.model.decoder)
        self.vocabulary = vocabulary
        self.config = config
        self.precision = precision
        self._transform = build_transform(config.encoder.transform, config.encoder.image_size)

    @classmethod
    def from_pretrained(
        cls, folder: str | Path | None = None, *, device: DeviceName = "auto", precision: PrecisionName = "auto"
    ) -> Self:
        """Load a model folder; without one, the model that comes with the package.

        Raises:
            CaptionerError: the folder is not a model's, or one of its files is missing or has changed.
        """
        path = resolve(folder)
        config, vocabulary, state = read_model(path)
        model = build_model(config, vocab_size=len(vocabulary))
        load_weights(model, state, source=str(path))
        return cls(model, vocabulary, config, device=device, precision=precision)

    def save_pretrained(self, folder: str | Path, *, half: bool = False) -> None:
        """Save the model so that `from_pretrained` finds it; `half` stores it in half precision."""
        with new_folder(Path(folder)) as place:
            write_model(place, config=self.config, vocabulary=self.vocabulary, state=self.model.state_dict(), half=half)

    def caption(
        self,
        images: ImageLike | Iterable[ImageLike],
        *,
        beam: int | None = None,
        max_length: int | None = None,
        batch_size: int = 16,
    ) -> Caption | list[Caption]:
        """Caption one image, or many: one gives a `Caption`, many a list of them in the same order.

        Args:
            images: a path, bytes, a Pillow image or a tensor (3, height, width); or several, also as (B, 3, h, w).
            beam: captions kept at each step of the search; 1 is greedy search. The model folder's own if not given.
            max_length: words at most. The model folder's own if not given.
            batch_size: images at a time.

        Raises:
            ImageError: an image cannot be read. `stream` goes on after such an image.
        """
        one = isinstance(images, (str, Path, bytes, Image.Image)) or (isinstance(images, Tensor) and images.dim() == 3)
        captions = []
        for result in self.stream([images] if one else images, beam=beam, max_length=max_length, batch_size=batch_size):  # type: ignore[list-item, arg-type]
            if isinstance(result, ImageError):
                raise result
            captions.append(result)
        return captions[0] if one else captions

    def stream(
        self,
        images: Iterable[ImageLike],
        *,
        beam: int | None = None,
        max_length: int | None = None,
        batch_size: int = 16,
    ) -> Iterator[Caption | ImageError]:
        """Caption images as they come, in their order; one that cannot be read gives its `ImageError` instead.

        The next images are read while these are captioned, and no more than that are held in memory.
        """
        asked = {"beam": beam, "max_length": max_length}
        given = {name: value for name, value in asked.items() if value is not None}
        search = build_search(self._seer, self.config.decoding.model_copy(update=given))
        for batch in self._read_ahead(iter(images), batch_size):
            good = [image for image in batch if isinstance(image, Tensor)]
            captions = iter(self._caption_batch(torch.stack(good), search) if good else [])
            for image in batch:
                yield image if isinstance(image, ImageError) else next(captions)

    @torch.inference_mode()
    def _caption_batch(self, images: Tensor, search: object) -> list[Caption]:
        with autocast(self.device, self.precision):
            found = search(self._seer.encode(images.to(self.device)))  # type: ignore[operator]
        return [Caption(detokenize(self.vocabulary.decode(best.words)), best.log_prob) for best, *_ in found]

    def _read_ahead(self, images: Iterator[ImageLike], size: int) -> Iterator[list[Tensor | ImageError]]:
        """Read and transform batches in threads (Pillow works beside Python), one batch ahead."""
        with ThreadPoolExecutor(thread_name_prefix="read-image") as pool:
            pending = [pool.submit(self._prepare, image) for image in itertools.islice(images, size)]
            while pending:
                following = [pool.submit(self._prepare, image) for image in itertools.islice(images, size)]
                yield [task.result() for task in pending]
                pending = following

    def _prepare(self, image: ImageLike) -> Tensor | ImageError:
        try:
            if isinstance(image, Tensor):
                image = _to_pillow(image)
            upright = read_image(image, at_least=self._transform.at_least)
            return self._transform(upright, random.Random(0))  # no preset for captioning draws from it
        except ImageError as error:
            return error


def _to_pillow(image: Tensor) -> Image.Image:
    if image.dim() != 3 or image.shape[0] != 3:
        raise ImageError("tensor", f"has shape {tuple(image.shape)}: expected (3, height, width)")
    if image.is_floating_point():
        image = (image.clamp(0, 1) * 255).round()
    return Image.fromarray(image.to("cpu", torch.uint8).permute(1, 2, 0).numpy())
