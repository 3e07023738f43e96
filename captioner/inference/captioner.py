"""The `Captioner`: loads a trained model or an ensemble, captions images, scores captions."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from statistics import fmean
from typing import TypedDict, TypeVar, Unpack, cast, overload

import torch
from torch import Tensor

from captioner.captions import Caption
from captioner.config.schema import INFERENCE, DecodingConfig, ImageEncoderConfig, ModelConfig
from captioner.data.images import ReadableImage
from captioner.data.transforms import ImageLike, build_transform, prefetch_images
from captioner.decoding.search import Search, build_search
from captioner.devices import autocast
from captioner.errors import ImageError, UsageError
from captioner.inference.pipeline import Decoding, Pipeline, PipelineOptions
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

    def _prepare(self, model: EncoderDecoder) -> EncoderDecoder:
        encoder = cast(ImageEncoder, model.encoder)
        return EncoderDecoder(fold_batch_norms(encoder), model.decoder)

    @overload  # a str is an iterable of str: the first overload wins
    def caption(  # type: ignore[overload-overlap]
        self, images: ReadableImage, **options: Unpack[_Options]
    ) -> Caption: ...
    @overload  # (3, height, width) or (B, 3, height, width)
    def caption(self, images: Tensor, **options: Unpack[_Options]) -> Caption | list[Caption]: ...
    @overload
    def caption(
        self, images: Iterable[ImageLike], **options: Unpack[_Options]
    ) -> list[Caption]: ...

    def caption(
        self,
        images: ImageLike | Iterable[ImageLike],
        *,
        decoding: Decoding | None = None,
        explain: bool = False,
        batch_size: int = INFERENCE.batch_size,
    ) -> Caption | list[Caption]:
        """Return the caption of one image, or a list of the captions of several, in their order.

        Args:
            images: a path, bytes, a Pillow image or a tensor (3, height, width); or an iterable of
                these, or a tensor (B, 3, height, width).
            decoding: settings that differ from the model folder's, as in {"beam": 5}.
            explain: also compute which parts of the image each word depends on. This costs little
                for a model with attention. For other models and ensembles it takes 50 times longer.
            batch_size: images that are processed at a time.

        Raises:
            ImageError: an image cannot be read. `stream` continues after such an image.
            UsageError: `decoding` is not valid.
        """
        if isinstance(images, ReadableImage) or (isinstance(images, Tensor) and images.dim() == 3):
            [caption] = self.caption([images], decoding=decoding, explain=explain)
            return caption
        captions = []
        for result in self.stream(
            images, decoding=decoding, explain=explain, batch_size=batch_size
        ):
            if isinstance(result, ImageError):
                raise result
            captions.append(result)
        return captions

    def stream(
        self,
        images: Iterable[ImageLike],
        *,
        decoding: Decoding | None = None,
        explain: bool = False,
        batch_size: int = INFERENCE.batch_size,
    ) -> Iterator[Caption | ImageError]:
        """Yield a caption for each image, in order, or the `ImageError` of one that cannot be read.

        The next batch of images is read while one is captioned. No more are held in memory.

        Raises:
            UsageError: `decoding` is not valid.
        """
        settings = self.decoding_config(decoding)
        search = build_search(self.step_model.step, settings, self.vocabulary)
        return self._in_batches(
            images,
            lambda batch, _: self._caption_batch(batch, search, settings, explain=explain),
            batch_size,
        )

    def score(
        self,
        images: Sequence[ImageLike],
        captions: Sequence[Sequence[str]],
        *,
        batch_size: int = INFERENCE.batch_size,
    ) -> Iterator[list[Caption] | ImageError]:
        """Yield given captions of each image with their log-probabilities; unknown words are <unk>.

        Raises:
            UsageError: `captions` does not have one sequence of captions for each image.
        """
        if any(isinstance(texts, str) for texts in captions) or len(images) != len(captions):
            raise UsageError("captions needs a list of captions for each image: [['a dog']]")
        return self._in_batches(
            images,
            lambda batch, indices: self._score_batch(batch, [captions[i] for i in indices]),
            batch_size,
        )

    def _in_batches(
        self,
        images: Iterable[ImageLike],
        process: Callable[[Tensor, list[int]], list[Result]],
        batch_size: int,
    ) -> Iterator[Result | ImageError]:
        """Yield results of `process`, which gets readable images (B, 3, size, size) and indices."""
        first = 0
        for batch in prefetch_images(iter(images), self.transform, size=batch_size):
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
