"""What `Captioner` and `Translator` share: loading, saving, decoding settings, and the search."""

from __future__ import annotations

import operator
import os
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import ClassVar, Literal, Self, TypedDict

import torch
from torch import Tensor

from captioner.config.schema import INFERENCE, DecodingConfig, ModelConfig
from captioner.decoding.memory import check_search_memory
from captioner.decoding.search import Search, build_search, length_limits, source_key
from captioner.devices import (
    DeviceName,
    PrecisionName,
    autocast,
    check_precision,
    pick_device,
)
from captioner.errors import UsageError
from captioner.inference.settings import parse_decoding
from captioner.models.build import LoadedModel, check_compatible, load_model
from captioner.models.encoder_decoder import EncoderDecoder, Ensemble
from captioner.models.folder import resolve, write_model
from captioner.runtime.base import Decoding, check_batch_size, errors_of_settings
from captioner.storage import atomic_folder
from captioner.text.tokenizer import Vocabulary
from captioner.types import Hypothesis, State, StepModel


class PipelineOptions(TypedDict, total=False):
    """Keyword arguments of a `Pipeline`."""

    source_vocabulary: Vocabulary | None
    device: DeviceName
    precision: PrecisionName


@cache
def _compute_alone_in_forks() -> None:
    """Let forked children compute in the thread that calls.

    The threads in which torch computes do not live on in a child, which would wait for them for
    ever. A process without a model has none of them, and its children may start their own.
    """
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=lambda: torch.set_num_threads(1))


class Pipeline:
    """A trained model, or an ensemble of several, that generates text: the base class.

    `models` are the trained models. `step_model` is what decoding uses: the model or the ensemble.
    `config` is that of the first model.
    """

    reads: ClassVar[Literal["image", "text"]]  # the kind of encoder
    hint: ClassVar[str]  # what to use for the other kind

    def __init__(
        self,
        models: Sequence[EncoderDecoder],
        vocabulary: Vocabulary,
        config: ModelConfig,
        *,
        source_vocabulary: Vocabulary | None = None,
        device: DeviceName = INFERENCE.device,
        precision: PrecisionName = INFERENCE.precision,
    ) -> None:
        """Move models that share vocabularies and preprocessing to `device`, in evaluation mode."""
        _compute_alone_in_forks()
        self.device = pick_device(device)
        check_precision(precision)
        self.precision = precision
        self.models = [model.to(self.device).eval() for model in models]
        prepared = [self._prepare(model) for model in self.models]
        self.step_model: StepModel = prepared[0] if len(prepared) == 1 else Ensemble(prepared)
        self.vocabulary = vocabulary
        self.source_vocabulary = source_vocabulary or vocabulary
        self.config = config

    @classmethod
    def from_pretrained(
        cls,
        *folders: str | Path,
        revision: str | None = None,
        device: DeviceName = INFERENCE.device,
        precision: PrecisionName = INFERENCE.precision,
    ) -> Self:
        """Load a model folder, or an ensemble of several; without a folder, the bundled model.

        An ensemble averages the probabilities of its models at every token. Its decoding defaults
        are those of the first folder, but it has no calibrated confidence. `folders` may be names
        of models on the Hugging Face hub, as "owner/name", in a `revision`.

        Raises:
            CaptionerError: a folder is not a model folder, a file of it is missing or corrupt, or
                the hub does not have it.
            UsageError: the vocabularies or the preprocessing differ, the model reads another kind
                of source, or `device` is not available.
        """
        pick_device(device)  # a wrong name is an error before the models are read
        loaded: list[LoadedModel] = []
        for path in [resolve(folder, revision=revision) for folder in folders or (None,)]:
            loaded.append(load_model(path))
            if (kind := loaded[-1].config.encoder.kind) != cls.reads:
                raise UsageError(f"{path} reads {kind}s: use {cls.hint}")
            check_compatible(loaded[0], loaded[-1])
        first, config = loaded[0], loaded[0].config
        if len(loaded) > 1:
            # The confidence of one model is not calibrated for the ensemble.
            decoding = config.decoding.model_copy(update={"min_confidence": 0.0})
            config = config.model_copy(update={"confidence": None, "decoding": decoding})
        return cls(
            [each.model for each in loaded],
            first.vocabulary,
            config,
            source_vocabulary=first.source_vocabulary,
            device=device,
            precision=precision,
        )

    def save_pretrained(self, folder: str | Path, *, half: bool = False) -> None:
        """Write a model folder for `from_pretrained`; `half` stores the weights in half precision.

        Raises:
            UsageError: it is an ensemble.
            CaptionerError: the folder cannot be written; an existing one is kept.
        """
        if len(self.models) > 1:
            raise UsageError("an ensemble is not one model folder: keep the folders of its models")
        with atomic_folder(Path(folder)) as new:
            write_model(
                new,
                config=self.config,
                vocabulary=self.vocabulary,
                source_vocabulary=self.source_vocabulary,
                state=self.models[0].state_dict(),
                half=half,
            )

    def decoding_config(self, changes: Decoding | None = None) -> DecodingConfig:
        """Return the model folder's decoding settings with `changes`; a whole config replaces them.

        Raises:
            UsageError: lists everything that is not valid.
        """
        return parse_decoding(self.config, changes)

    def build_search(
        self, decoding: Decoding | None, batch_size: int, sources: object = None
    ) -> tuple[DecodingConfig, Search]:
        """Return all decoding settings, and the search that they describe.

        Every run begins with it, so settings that it accepts can be stored as defaults. A search
        for few `sources`, if their number is known, needs less memory than one for a full batch;
        without any, as to check settings, it is judged for a full one.

        Raises:
            UsageError: a setting is not valid, or does not fit this model or the memory.
        """
        check_batch_size(batch_size)
        settings = self.decoding_config(decoding)
        are_stored = not decoding or settings == self.config.decoding
        with errors_of_settings(are_stored=are_stored):
            search = build_search(self.step_model.step, settings, self.vocabulary)
        check_search_memory(
            settings,
            vocab_size=len(self.vocabulary),
            batch_size=min(batch_size, operator.length_hint(sources) or batch_size),
            device=self.device,
            source_bytes=self._source_bytes(),
        )
        return settings, search

    def _source_bytes(self) -> int:
        """Return about how much memory a source takes while it is encoded."""
        return 0

    def _prepare(self, model: EncoderDecoder) -> EncoderDecoder:
        """Return the form of a model that decodes fastest."""
        return model

    def _generate(
        self, source: Tensor, search: Search, settings: DecodingConfig
    ) -> tuple[State, list[list[Hypothesis]]]:
        """Return the initial state of a batch of sources, and the hypotheses of each."""
        is_sampled = settings.method == "sample"
        keys = [source_key(each) for each in source] if is_sampled else []
        source = source.to(self.device)
        with torch.inference_mode(), autocast(self.device, self.precision):
            state = self.step_model.init_state(source)
            return state, search(state, keys, length_limits(source, settings))
