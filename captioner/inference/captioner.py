"""The `Captioner`: loads a trained model or an ensemble, captions images, scores captions."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from statistics import fmean
from typing import TypedDict, TypeVar, Unpack, cast, overload

import numpy as np
import torch
from torch import Tensor

from captioner.captions import Caption
from captioner.config.schema import INFERENCE, DecodingConfig, ImageEncoderConfig, ModelConfig
from captioner.data.images import OneImage, ReadableImage, is_image
from captioner.data.transforms import build_transform, prefetch_images
from captioner.decoding.search import Search
from captioner.devices import autocast
from captioner.errors import ImageError, UsageError, parameter
from captioner.inference.pipeline import Decoding, Pipeline, PipelineOptions, check_batch_size
from captioner.models.encoder import ImageEncoder, fold_batch_norms
from captioner.models.encoder_decoder import EncoderDecoder
from captioner.text.tokenizer import Vocabulary
from captioner.types import Batch, Hypothesis

Result = TypeVar("Result")


class _Options(TypedDict, total=False):
    """Keyword arguments of `Captioner.caption`, for its overloads."""

    decoding: Decoding | None
    explain: bool
    batch_size: int


class Captioner(Pipeline):
    """A trained model, or an ensemble of several, that captions images.

    >>> Captioner.from_pretrained().caption("photo.jpg").text  # doctest: +SKIP
    'a dog is running through the grass'

    `models` are the trained models. `step_model` is what decoding uses: the model or the ensemble,
    with batch normalisation folded into the convolutions. `config` is that of the first model.
    """

    reads = "image"
    hint = "Translator or captioner translate"

    def __init__(
        self,
        models: Sequence[EncoderDecoder],
        vocabulary: Vocabulary,
        config: ModelConfig,
        **options: Unpack[PipelineOptions],
    ) -> None:
        """Move models that share `vocabulary` and preprocessing to `device`, in evaluation mode."""
        super().__init__(models, vocabulary, config, **options)
        encoder = cast(ImageEncoderConfig, config.encoder)
        self.transform = build_transform(encoder.transform, encoder.image_size)
        self.crops = encoder.transform == "crop"  # the model sees the center of an image only

    def _source_bytes(self) -> int:
        # Two batches of images, as one is read ahead, and the largest grids of a small CNN: a
        # ResNet-18 takes 10 times the memory of its images, an EfficientNet-Lite0 21 times.
        return 10 * 3 * 4 * cast(ImageEncoderConfig, self.config.encoder).image_size ** 2

    def _prepare(self, model: EncoderDecoder) -> EncoderDecoder:
        encoder = cast(ImageEncoder, model.encoder)
        return EncoderDecoder(fold_batch_norms(encoder), model.decoder)

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
        batch_size: int = INFERENCE.batch_size,
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

    def stream(
        self,
        images: Iterable[ReadableImage],
        *,
        decoding: Decoding | None = None,
        explain: bool = False,
        batch_size: int = INFERENCE.batch_size,
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
        settings, search = self.build_search(decoding, batch_size, images)
        return self._in_batches(
            images,
            lambda batch, _: self._caption_batch(batch, search, settings, explain=explain),
            batch_size,
        )

    def score(
        self,
        images: Sequence[ReadableImage],
        captions: Sequence[Sequence[str]],
        *,
        batch_size: int = INFERENCE.batch_size,
    ) -> Iterator[list[Caption] | ImageError]:
        """Yield given captions of each image with their log-probabilities; unknown words are <unk>.

        Raises:
            UsageError: `captions` does not have one sequence of captions for each image, or
                `images` is one image or a mapping.
        """
        check_batch_size(batch_size)
        if any(isinstance(texts, str) for texts in captions) or len(images) != len(captions):
            raise UsageError("captions needs a list of captions for each image: [['a dog']]")
        return self._in_batches(
            images,
            lambda batch, indices: self._score_batch(batch, [captions[i] for i in indices]),
            batch_size,
        )

    def _in_batches(
        self,
        images: Iterable[ReadableImage],
        process: Callable[[Tensor, list[int]], list[Result]],
        batch_size: int,
    ) -> Iterator[Result | ImageError]:
        """Yield results of `process`, which gets readable images (B, 3, size, size) and indices."""
        if is_image(images) or isinstance(images, Mapping):
            found = "a mapping" if isinstance(images, Mapping) else "one image"
            raise UsageError(f"{parameter('images')} is {found}: give a list of images")
        return self._run(images, process, batch_size)

    def _run(
        self,
        images: Iterable[ReadableImage],
        process: Callable[[Tensor, list[int]], list[Result]],
        batch_size: int,
    ) -> Iterator[Result | ImageError]:
        first = 0
        with closing(prefetch_images(images, self.transform, size=batch_size)) as batches:
            for batch in batches:
                readable = {
                    index: image
                    for index, image in enumerate(batch, first)
                    if isinstance(image, Tensor)
                }
                stack = torch.stack([*readable.values()]) if readable else None
                results = iter([] if stack is None else process(stack, [*readable]))
                for image in batch:
                    yield image if isinstance(image, ImageError) else next(results)
                first += len(batch)

    def _caption_batch(
        self, images: Tensor, search: Search, settings: DecodingConfig, *, explain: bool
    ) -> list[Caption]:
        images = images.to(self.device)
        state, hypotheses = self._generate(images, search, settings)
        captions = []
        for ranked in hypotheses:
            best, *others = (self._to_caption(one, settings.min_confidence) for one in ranked)
            captions.append(replace(best, others=tuple(others)))
        if explain:
            from captioner.inference.explain import explain_captions

            token_ids = [ranked[0].token_ids for ranked in hypotheses]
            with torch.inference_mode(), autocast(self.device, self.precision):
                return explain_captions(self.step_model, images, state, captions, token_ids)
        return captions

    @torch.inference_mode()
    def _score_batch(self, images: Tensor, texts: Sequence[Sequence[str]]) -> list[list[Caption]]:
        from captioner.data.batching import pad

        tokenize = self.vocabulary.tokenizer.tokenize
        per_image = [[self.vocabulary.encode(tokenize(text)) for text in each] for each in texts]
        flat = [token_ids for each in per_image for token_ids in each]
        if not flat:
            return [[] for _ in per_image]
        tokens, mask = pad(flat)  # (N, T)
        example_index = torch.arange(len(images))  # (B,)
        source_index = example_index.repeat_interleave(torch.tensor([*map(len, per_image)]))  # (N,)
        batch = Batch(images, tokens, mask, source_index, example_index).to(self.device)
        with autocast(self.device, self.precision):
            log_probs = self.step_model.log_probs(batch, self.step_model.init_state(batch.source))
        # (M,) of all target tokens: those of a caption and its <eos>, without <bos>
        per_caption = iter(torch.split(log_probs.cpu(), [len(ids) - 1 for ids in flat]))
        return [
            [self._to_caption(Hypothesis(ids[1:-1], next(per_caption).tolist())) for ids in each]
            for each in per_image
        ]

    def _to_caption(self, hypothesis: Hypothesis, min_confidence: float = 0.0) -> Caption:
        """Return the text of a hypothesis, with confidences if the model is calibrated."""
        words, calibration = self._words(hypothesis), self.config.confidence
        confidences = [word.confidence for word in words if word.confidence is not None]
        confidence = fmean(confidences) if confidences else None
        threshold = calibration.threshold if calibration else None
        return Caption(
            self.vocabulary.tokenizer.detokenize(word.text for word in words),
            words,
            hypothesis.log_prob,
            confidence,
            sure=None if threshold is None else (confidence or 0.0) >= threshold,
            abstained=min_confidence > 0 and (confidence or 0.0) < min_confidence,
        )
