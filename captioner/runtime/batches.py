"""What captioners share: batches of images, and captions from hypotheses. Imports no torch."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from statistics import fmean
from typing import (
    TYPE_CHECKING,
    Any,
    ClassVar,
    TypeVar,
)

import numpy as np

from captioner.captions import Caption, Hypothesis, Word
from captioner.data.images import MAX_PIXELS, ReadableImage, is_image
from captioner.data.transforms import Transform, prefetch_images, read_pixels
from captioner.devices import BATCH_SIZE
from captioner.errors import ImageError, UsageError, parameter
from captioner.runtime.base import BaseCaptioner, Calibration, Decoding, check_batch_size
from captioner.text.tokenizer import Vocabulary

if TYPE_CHECKING:
    pass

Result = TypeVar("Result")


class BatchCaptioner(BaseCaptioner):
    """Reads images in batches, and leaves a batch to a subclass: `_caption_batch`, `_log_probs`."""

    explains: ClassVar[bool] = True  # whether it can `explain` captions
    transform: Transform

    @abstractmethod
    def _caption_batch(
        self, pixels: np.ndarray, search: Any, settings: Any, *, explain: bool
    ) -> list[Caption]:
        """Return a caption for each image of a batch (B, 3, size, size), uint8."""

    @abstractmethod
    def _log_probs(
        self, pixels: np.ndarray, token_ids: Sequence[list[int]], source_index: np.ndarray
    ) -> Iterator[list[float]]:
        """Yield the log-probabilities of the tokens of N captions, without that of <bos>.

        `token_ids` are with <bos> and <eos>; caption n is of the image in row `source_index[n]`.
        """

    def stream(
        self,
        images: Iterable[ReadableImage],
        *,
        decoding: Decoding | None = None,
        explain: bool = False,
        batch_size: int = BATCH_SIZE,
    ) -> Iterator[Caption | ImageError]:
        """Yield a caption for each image: see `BaseCaptioner.stream`."""
        self._check_explains(explain)
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
        batch_size: int = BATCH_SIZE,
    ) -> Iterator[list[Caption] | ImageError]:
        """Yield given captions with their log-probabilities: see `BaseCaptioner.score`."""
        check_batch_size(batch_size)
        if any(isinstance(texts, str) for texts in captions) or len(images) != len(captions):
            raise UsageError("captions needs a list of captions for each image: [['a dog']]")
        return self._in_batches(
            images,
            lambda batch, indices: self._score_batch(batch, [captions[i] for i in indices]),
            batch_size,
        )

    def prepare(self, image: ReadableImage, *, max_pixels: int = MAX_PIXELS) -> np.ndarray:
        """Read an image for `caption_pixels`: see `Captioner.prepare`."""
        return read_pixels(image, self.transform, max_pixels=max_pixels)

    def caption_pixels(
        self, pixels: np.ndarray, *, decoding: Decoding | None = None, explain: bool = False
    ) -> list[Caption]:
        """Return a caption for each image of a batch: see `Captioner.caption_pixels`."""
        self._check_explains(explain)
        settings, search = self.build_search(decoding, len(pixels))
        return self._caption_batch(pixels, search, settings, explain=explain)

    def score_pixels(
        self, pixels: np.ndarray, captions: Sequence[Sequence[str]]
    ) -> list[list[Caption]]:
        """Return given captions of each image of a batch: see `Captioner.score_pixels`."""
        return self._score_batch(pixels, captions)

    def _check_explains(self, explain: bool) -> None:
        if explain and not self.explains:
            raise UsageError(
                f"{parameter('explain')} needs the backend 'torch': choose it, or leave it out"
            )

    def _in_batches(
        self,
        images: Iterable[ReadableImage],
        process: Callable[[np.ndarray, list[int]], list[Result]],
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
        process: Callable[[np.ndarray, list[int]], list[Result]],
        batch_size: int,
    ) -> Iterator[Result | ImageError]:
        first = 0
        with closing(prefetch_images(images, self.transform, size=batch_size)) as batches:
            for batch in batches:
                readable = {
                    index: image
                    for index, image in enumerate(batch, first)
                    if isinstance(image, np.ndarray)
                }
                stack = np.stack([*readable.values()]) if readable else None
                results = iter([] if stack is None else process(stack, [*readable]))
                for image in batch:
                    yield image if isinstance(image, ImageError) else next(results)
                first += len(batch)

    def _captions(
        self, hypotheses: Sequence[Sequence[Hypothesis]], min_confidence: float
    ) -> list[Caption]:
        """Return the caption of each image, with its others, from its ranked hypotheses."""
        captions = []
        for ranked in hypotheses:
            best, *others = (self._to_caption(one, min_confidence) for one in ranked)
            captions.append(replace(best, others=tuple(others)))
        return captions

    def _score_batch(
        self, pixels: np.ndarray, texts: Sequence[Sequence[str]]
    ) -> list[list[Caption]]:
        tokenize = self.vocabulary.tokenizer.tokenize
        per_image = [[self.vocabulary.encode(tokenize(text)) for text in each] for each in texts]
        flat = [token_ids for each in per_image for token_ids in each]
        if not flat:
            return [[] for _ in per_image]
        source_index = np.repeat(np.arange(len(pixels)), [len(each) for each in per_image])  # (N,)
        log_probs = iter(self._log_probs(pixels, flat, source_index))
        return [
            [self._to_caption(Hypothesis(ids[1:-1], next(log_probs))) for ids in each]
            for each in per_image
        ]

    def _to_caption(self, hypothesis: Hypothesis, min_confidence: float = 0.0) -> Caption:
        """Return the text of a hypothesis, with confidences if the model is calibrated."""
        calibration = self.calibration
        words = words_of(hypothesis, self.vocabulary, calibration)
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


def words_of(
    hypothesis: Hypothesis, vocabulary: Vocabulary, calibration: Calibration | None
) -> tuple[Word, ...]:
    """Return the words of a hypothesis, with confidences if the model is calibrated."""
    texts = [vocabulary.words[token] for token in hypothesis.token_ids]
    return tuple(
        Word(text, log_prob, _confidence(log_prob, calibration))
        for text, log_prob in zip(texts, hypothesis.log_probs, strict=False)  # without <eos>
    )


def _confidence(log_prob: float, calibration: Calibration | None) -> float | None:
    """Return the confidence of a word: its probability ** (1 / temperature)."""
    return math.exp(log_prob / calibration.temperature) if calibration else None
