"""Photographs in, captions out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Self, TypeVar

import torch
from PIL import Image
from torch import Tensor

from captioner.captions import Caption, Word
from captioner.config.loading import parse, to_json
from captioner.config.schema import DecodingConfig, DeviceName, ModelConfig, PrecisionName
from captioner.data.batching import pad
from captioner.data.loading import ImageLike, read_ahead
from captioner.data.transforms import build_transform
from captioner.decoding.search import Search, build_search, key_of
from captioner.devices import autocast, pick_device
from captioner.errors import ImageError, UsageError
from captioner.inference.explain import explain_captions
from captioner.metrics.calibration import confidence
from captioner.models.build import build_model, load_weights
from captioner.models.encoder import fold_batch_norms
from captioner.models.encoder_decoder import EncoderDecoder, Ensemble
from captioner.models.folder import read_model, resolve, write_model
from captioner.storage import new_folder
from captioner.text.tokenizer import detokenize, tokenize
from captioner.text.vocabulary import Vocabulary
from captioner.types import Batch, Hypothesis, StepModel

Result = TypeVar("Result")
Decoding = DecodingConfig | Mapping[str, object]
"""How to find captions: all settings, or those that differ from the model's own, as in {"beam": 5}."""


class Captioner:
    """A trained model, or several that speak as one, ready to caption images.

    >>> Captioner.from_pretrained().caption("photo.jpg").text  # doctest: +SKIP
    'a dog is running through the grass'
    """

    def __init__(
        self,
        models: Sequence[EncoderDecoder],
        vocabulary: Vocabulary,
        config: ModelConfig,
        *,
        device: DeviceName = "auto",
        precision: PrecisionName = "auto",
    ) -> None:
        """Take models that share vocabulary and preprocessing; `config` is the first one's."""
        self.device = pick_device(device)
        self.models = [model.to(self.device).eval() for model in models]
        folded = [
            EncoderDecoder(fold_batch_norms(model.encoder), model.decoder) for model in self.models
        ]
        self.step_model: StepModel = folded[0] if len(folded) == 1 else Ensemble(folded)
        self.vocabulary = vocabulary
        self.config = config
        self.precision = precision
        self.transform = build_transform(config.encoder.transform, config.encoder.image_size)

    @classmethod
    def from_pretrained(
        cls, *folders: str | Path, device: DeviceName = "auto", precision: PrecisionName = "auto"
    ) -> Self:
        """Load a model folder; without one, the model that comes with the package; of several, an ensemble.

        An ensemble says at each word the mean of its models' probabilities; decoding defaults are the first one's.

        Raises:
            CaptionerError: a folder is not a model's, or one of its files is missing or has changed.
            UsageError: the folders' vocabularies or preprocessing differ.
        """
        paths = [resolve(folder) for folder in folders or (None,)]
        models: list[EncoderDecoder] = []
        for path in paths:
            config, vocabulary, state = read_model(path)
            if not models:
                first, words = config, vocabulary
            _check_alike(paths[0], first, words, path, config, vocabulary)
            models.append(build_model(config, vocab_size=len(vocabulary)))
            load_weights(models[-1], state, source=str(path))
        if len(paths) > 1:
            # One model's confidence says nothing of several.
            decoding = first.decoding.model_copy(update={"min_confidence": 0.0})
            first = first.model_copy(update={"confidence": None, "decoding": decoding})
        return cls(models, words, first, device=device, precision=precision)

    def save_pretrained(self, folder: str | Path, *, half: bool = False) -> None:
        """Save the model so that `from_pretrained` finds it; `half` stores it in half precision.

        Raises:
            UsageError: it is an ensemble, which has no folder of its own.
        """
        if len(self.models) > 1:
            raise UsageError("an ensemble has no folder of its own: keep its models' folders")
        state = self.models[0].state_dict()
        with new_folder(Path(folder)) as place:
            write_model(
                place, config=self.config, vocabulary=self.vocabulary, state=state, half=half
            )

    def caption(
        self,
        images: ImageLike | Iterable[ImageLike],
        *,
        decoding: Decoding | None = None,
        explain: bool = False,
        batch_size: int = 16,
    ) -> Caption | list[Caption]:
        """Caption one image, or many: one gives a `Caption`, many a list of them in the same order.

        Args:
            images: a path, bytes, a Pillow image or a tensor (3, height, width); or several, also as (B, 3, h, w).
            decoding: how captions are found, as in {"beam": 5}; what is not given is the model folder's own.
            explain: also find out which part of the image each word hangs on; at no great cost for a model with
                attention, else (and for ensembles) 50 times the work.
            batch_size: images at a time.

        Raises:
            ImageError: an image cannot be read. `stream` goes on after such an image.
            UsageError: `decoding` holds a mistake.
        """
        one = isinstance(images, (str, Path, bytes, Image.Image)) or (
            isinstance(images, Tensor) and images.dim() == 3
        )
        many: Iterable[ImageLike] = [images] if one else images  # type: ignore[list-item, assignment]
        captions = []
        for result in self.stream(many, decoding=decoding, explain=explain, batch_size=batch_size):
            if isinstance(result, ImageError):
                raise result
            captions.append(result)
        return captions[0] if one else captions

    def stream(
        self,
        images: Iterable[ImageLike],
        *,
        decoding: Decoding | None = None,
        explain: bool = False,
        batch_size: int = 16,
    ) -> Iterator[Caption | ImageError]:
        """Caption images as they come, in their order; one that cannot be read gives its `ImageError` instead.

        The next images are read while these are captioned, and no more than that are held in memory.
        """
        settings = self.decoding(decoding)
        search = build_search(self.step_model.step, settings, self.vocabulary)
        return self._in_batches(
            images,
            lambda good, _: self._caption_batch(good, search, settings, explain=explain),
            batch_size,
        )

    def score(
        self,
        images: Sequence[ImageLike],
        captions: Sequence[Sequence[str]],
        *,
        batch_size: int = 16,
    ) -> Iterator[list[Caption] | ImageError]:
        """Say how probable the model finds given captions: a sequence of them for each image, in their order.

        A word that the model does not know counts as <unk>, for which it has a probability too, and is told as that.

        Raises:
            UsageError: there are not as many sequences of captions as images, or one of them is a plain text.
        """
        if any(isinstance(texts, str) for texts in captions) or len(images) != len(captions):
            raise UsageError(
                "give a list of captions for each image, as in score(['a.jpg'], [['a dog', 'a cat']])"
            )
        return self._in_batches(
            images,
            lambda good, places: self._score_batch(good, [captions[place] for place in places]),
            batch_size,
        )

    def _in_batches(
        self,
        images: Iterable[ImageLike],
        work: Callable[[Tensor, list[int]], list[Result]],
        batch_size: int,
    ) -> Iterator[Result | ImageError]:
        """Do the work for the images that can be read, (B, 3, size, size) with their places, in order."""
        first = 0
        for batch in read_ahead(iter(images), self.transform, size=batch_size):
            good = [place for place, image in enumerate(batch) if isinstance(image, Tensor)]
            stack = torch.stack([batch[place] for place in good]) if good else None  # type: ignore[misc]
            results = iter(
                work(stack, [first + place for place in good]) if stack is not None else []
            )
            for image in batch:
                yield image if isinstance(image, ImageError) else next(results)
            first += len(batch)

    def decoding(self, asked: Decoding | None = None) -> DecodingConfig:
        """Lay what is asked for over the model folder's own settings.

        Raises:
            UsageError: lists every mistake.
        """
        if isinstance(asked, DecodingConfig):
            settings = asked
        else:
            values = {**to_json(self.config.decoding), **(asked or {})}
            settings = parse(DecodingConfig, values, source="decoding")
        if settings.min_confidence and self.config.confidence is None:
            raise UsageError(
                "min_confidence needs a calibrated model, and one model: run captioner calibrate on its folder"
            )
        return settings

    @torch.inference_mode()
    def _caption_batch(
        self, images: Tensor, search: Search, settings: DecodingConfig, *, explain: bool
    ) -> list[Caption]:
        images = images.to(self.device)
        keys = [key_of(image) for image in images] if settings.method == "sample" else []
        with autocast(self.device, self.precision):
            state = self.step_model.init_state(images)
            found = search(state, keys)
            captions = []
            for best, *others in found:
                further = tuple(self._told(other, settings) for other in others)
                captions.append(replace(self._told(best, settings), others=further))
            if explain:
                captions = explain_captions(
                    self.step_model, images, state, captions, [best.token_ids for best, *_ in found]
                )
        return captions

    def _told(self, found: Hypothesis, settings: DecodingConfig | None = None) -> Caption:
        """From ids to words, with how sure the model is."""
        texts = [self.vocabulary.words[word] for word in found.token_ids]
        calibrated = self.config.confidence
        words = tuple(
            Word(
                text, log_prob, confidence(log_prob, calibrated.temperature) if calibrated else None
            )
            for text, log_prob in zip(texts, found.log_probs, strict=False)  # without the end
        )
        sure = fmean(word.confidence or 0.0 for word in words) if words and calibrated else None
        abstained = (
            settings is not None
            and settings.min_confidence > 0
            and (sure or 0.0) < settings.min_confidence
        )
        return Caption(detokenize(texts), words, found.log_prob, sure, abstained)

    @torch.inference_mode()
    def _score_batch(self, images: Tensor, texts: Sequence[Sequence[str]]) -> list[list[Caption]]:
        images = images.to(self.device)
        captions = [[self.vocabulary.encode(tokenize(text)) for text in given] for given in texts]
        flat = [words for given in captions for words in given]
        if not flat:
            return [[] for _ in captions]
        tokens, mask = pad(flat)  # (N, T)
        source_index = torch.tensor(
            [number for number, given in enumerate(captions) for _ in given]
        )
        batch = Batch(
            images, tokens, mask, source_index, example_index=torch.arange(len(images))
        ).to(self.device)
        with autocast(self.device, self.precision):
            log_probs = self.step_model.log_probs(batch, self.step_model.init_state(images))
        each = iter(torch.split(log_probs.cpu(), [len(words) - 1 for words in flat]))
        return [
            [self._told(Hypothesis(words[1:-1], next(each).tolist())) for words in given]
            for given in captions
        ]


def _check_alike(
    folder: Path,
    config: ModelConfig,
    vocabulary: Vocabulary,
    other: Path,
    its: ModelConfig,
    words: Vocabulary,
) -> None:
    """Refuse an ensemble of models that would read other words or see other images."""
    if words != vocabulary:
        raise UsageError(
            f"{other} and {folder} do not share a vocabulary ({len(words)} and {len(vocabulary)} words): "
            "train them on the same captions, or one with init from the other"
        )
    for setting in ("transform", "image_size"):
        mine, theirs = (getattr(which.encoder, setting) for which in (config, its))
        if mine != theirs:
            raise UsageError(
                f"{other} has encoder.{setting} {theirs}, {folder} has {mine}: an ensemble needs one"
            )
