"""The `TorchCaptioner`: captions images and scores captions with PyTorch, on any device."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Unpack, cast

import numpy as np
import torch

from captioner.captions import Caption
from captioner.config.schema import (
    ConfidenceConfig,
    DecodingConfig,
    ImageEncoderConfig,
    ModelConfig,
)
from captioner.data.transforms import build_transform
from captioner.decoding.search import Search
from captioner.devices import autocast
from captioner.inference.pipeline import Pipeline, PipelineOptions
from captioner.models.encoder import ImageEncoder
from captioner.models.encoder_decoder import EncoderDecoder
from captioner.models.folding import fold_batch_norms
from captioner.runtime.base import bytes_of_image
from captioner.runtime.batches import BatchCaptioner
from captioner.text.tokenizer import Vocabulary
from captioner.types import Batch


class TorchCaptioner(Pipeline, BatchCaptioner):
    """A trained model, or an ensemble of several, that captions images with PyTorch.

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

    @property
    def calibration(self) -> ConfidenceConfig | None:
        """How confidences follow from probabilities; None: there are none."""
        return self.config.confidence

    def _source_bytes(self) -> int:
        return bytes_of_image(cast(ImageEncoderConfig, self.config.encoder).image_size)

    def _prepare(self, model: EncoderDecoder) -> EncoderDecoder:
        encoder = cast(ImageEncoder, model.encoder)
        return EncoderDecoder(fold_batch_norms(encoder), model.decoder)

    def _caption_batch(
        self, pixels: np.ndarray, search: Search, settings: DecodingConfig, *, explain: bool
    ) -> list[Caption]:
        images = torch.from_numpy(pixels).to(self.device)
        state, hypotheses = self._generate(images, search, settings)
        captions = self._captions(hypotheses, settings.min_confidence)
        if explain:
            from captioner.inference.explain import explain_captions

            token_ids = [ranked[0].token_ids for ranked in hypotheses]
            with torch.inference_mode(), autocast(self.device, self.precision):
                return explain_captions(self.step_model, images, state, captions, token_ids)
        return captions

    def _log_probs(
        self, pixels: np.ndarray, token_ids: Sequence[list[int]], source_index: np.ndarray
    ) -> Iterator[list[float]]:
        from captioner.data.batching import pad

        tokens, mask = pad(token_ids)  # (N, T)
        images, sources = torch.from_numpy(pixels), torch.from_numpy(source_index)
        batch = Batch(images, tokens, mask, sources, torch.arange(len(images))).to(self.device)
        with torch.inference_mode(), autocast(self.device, self.precision):
            log_probs = self.step_model.log_probs(batch, self.step_model.init_state(batch.source))
        # (M,) of all target tokens: those of a caption and its <eos>, without <bos>
        per_caption = torch.split(log_probs.cpu(), [len(ids) - 1 for ids in token_ids])
        return (each.tolist() for each in per_caption)
