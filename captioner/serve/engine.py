"""The model behind the service: loads, checks options, reads images and computes batches."""

from __future__ import annotations

import re
from collections.abc import Hashable, Sequence
from importlib.util import find_spec
from pathlib import Path
from threading import Lock
from typing import Any, NamedTuple

import numpy as np

from captioner.config.schema import DecodingConfig, InferenceConfig, ModelConfig
from captioner.config.service import ServiceConfig
from captioner.errors import ImageError, UsageError, parameter
from captioner.inference.captioner import Captioner
from captioner.inference.settings import parse_decoding
from captioner.models.folder import BUNDLED, read_config, resolve
from captioner.results.values import caption_values, score_values, translation_values

CARD = "README.md"  # of a model folder
MAX_CARD = 100_000  # characters
WARM_UP = 32  # pixels, of each side of the image that warms the model


class CaptionKey(NamedTuple):
    """Images with the same key may form a batch."""

    settings: DecodingConfig
    explain: bool


class ScoreKey(NamedTuple):
    """Images whose given captions are scored."""


class TranslationKey(NamedTuple):
    """Texts with the same key may form a batch."""

    settings: DecodingConfig
    align: bool


class Engine:
    """A `Captioner` or a `Translator`, which is loaded when `load` is called.

    Its methods, but for `load`, may be called in several threads.
    """

    def __init__(
        self, folders: Sequence[str | Path], inference: InferenceConfig, service: ServiceConfig
    ) -> None:
        """Read the settings of the model.

        Raises:
            CaptionerError: a folder is not a model folder.
        """
        self.folders = [resolve(folder) for folder in folders or (None,)]
        config = ModelConfig.parse(read_config(self.folders[0]), source=str(self.folders[0]))
        self.inference, self.service = inference, service
        self.reads = config.encoder.kind
        self.attends = config.decoder.context == "attention" and len(self.folders) == 1
        self._model: Any = None
        self._first_use = Lock()  # an option can load torch, which two threads must not do at once

    def load(self) -> None:
        """Load the model, and compute once with it.

        Raises:
            CaptionerError: as of `Captioner.from_pretrained`.
        """
        options: dict[str, Any] = {
            "device": self.inference.device,
            "precision": self.inference.precision,
        }
        if self.reads == "text":
            from captioner.inference.translator import Translator

            model: Any = Translator.from_pretrained(*self.folders, **options)
            model.translate("a")
        else:
            model = Captioner.from_pretrained(
                *self.folders, **options, backend=self.inference.backend
            )
            model.caption(np.zeros((WARM_UP, WARM_UP, 3), dtype=np.uint8))
        self._model = model

    @property
    def is_ready(self) -> bool:
        """Whether the model is loaded and warm."""
        return self._model is not None

    @property
    def config(self) -> ModelConfig:
        """The settings of the model: of the first one of an ensemble."""
        config: ModelConfig = self._model.config
        return config

    @property
    def explains(self) -> bool:
        """Whether captions have heat maps on demand; for texts, attention weights."""
        if self.inference.backend == "onnx" or find_spec("torch") is None:
            return False
        allowed = self.service.explain
        return allowed == "any" or (allowed == "attention" and self.attends)

    def describe(self) -> dict[str, Any]:
        """Return what a client may know of the model, as JSON values."""
        names = ["bundled" if each == BUNDLED else each.name for each in self.folders]
        cards = [
            (each / CARD).read_text(encoding="utf-8", errors="replace")[:MAX_CARD]
            for each in self.folders
            if (each / CARD).is_file()
        ]
        return {
            "name": " + ".join(names),
            "reads": self.reads,
            "vocabulary_size": len(self._model.vocabulary),
            "decoding": self.config.decoding.to_json(),
            "calibrated": self.config.confidence is not None,
            "explains": self.explains,
            "limits": self.service.to_json(),
            "licence": _section(cards, "licen[cs]e"),
            "data": _section(cards, "training data|data"),
        }

    def settings(self, changes: dict[str, Any]) -> DecodingConfig:
        """Return all decoding settings of a request. Computes nothing.

        Raises:
            UsageError: lists everything that is not valid.
        """
        return parse_decoding(self.config, changes)

    def check(self, key: CaptionKey | TranslationKey) -> None:
        """Check settings with the model: its words, its memory, whether it can explain.

        Raises:
            UsageError: names the setting.
        """
        wants = key.explain if isinstance(key, CaptionKey) else key.align
        if wants and not self.explains:
            if self.reads == "text":  # no option lets a model without attention align
                name, way_out = "align", "leave it out"
            else:
                name, way_out = "explain", "leave it out, or start the service with --explain any"
            raise UsageError(
                f"{parameter(name)} is not possible with this model, or is off: {way_out}"
            )
        stored = key.settings == self.config.decoding
        with self._first_use:
            self._model.build_search(None if stored else key.settings, 1)
            if wants and self.reads == "image":
                self._model.models  # noqa: B018  loads torch, where it is not loaded

    def prepare(self, content: bytes, name: str | None) -> np.ndarray:
        """Read an image: the pixels (3, size, size) that the model sees.

        Raises:
            ImageError: it cannot be read.
        """
        try:
            pixels: np.ndarray = self._model.prepare(content, max_pixels=self.service.max_pixels)
        except ImageError as error:
            raise ImageError(name or "image", error.reason) from None
        return pixels

    def compute(self, key: Hashable, items: Sequence[Any]) -> list[Any]:
        """Return the JSON values of each item of a batch.

        The items of a `CaptionKey` are pixels, of a `ScoreKey` pixels and captions, of a
        `TranslationKey` texts.
        """
        match key:
            case CaptionKey(settings=settings, explain=explain):
                several = settings.captions > 1
                captions = self._model.caption_pixels(
                    np.stack(items), decoding=settings, explain=explain
                )
                return [caption_values(caption, several=several) for caption in captions]
            case ScoreKey():  # one by one: captions can be long, and each adds to the memory
                return [self._score(pixels, texts) for pixels, texts in items]
            case TranslationKey(settings=settings, align=align):
                several = settings.captions > 1
                translations = self._model.translate(
                    list(items), decoding=settings, align=align, batch_size=len(items)
                )
                return [
                    {"source": text, **translation_values(each, align=align, several=several)}
                    for text, each in zip(items, translations, strict=True)
                ]
        raise AssertionError(key)

    def _score(self, pixels: np.ndarray, texts: Sequence[str]) -> list[dict[str, Any]]:
        [captions] = self._model.score_pixels(pixels[None], [texts])
        return [score_values(text, each) for text, each in zip(texts, captions, strict=True)]


def _section(cards: Sequence[str], title: str) -> str | None:
    """Return the text under a heading of each model card, as Markdown; None: there is none."""
    heading = re.compile(rf"^#+\s*(?:{title})\s*$(.*?)(?=^#|\Z)", re.I | re.M | re.S)
    found = [match[1].strip() for card in cards if (match := heading.search(card))]
    return "\n\n".join(found) or None
