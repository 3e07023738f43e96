"""The `OnnxCaptioner`: captions images, and scores captions, with the graphs of a model folder."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Self, cast

import numpy as np

from captioner.captions import Caption, Hypothesis
from captioner.data.transforms import build_transform
from captioner.decoding.memory import check_search_memory
from captioner.decoding.words import check_tokens_are_words, setting_tokens
from captioner.errors import UsageError, parameter
from captioner.models.folder import read_settings as read_folder
from captioner.models.folder import resolve
from captioner.runtime.base import (
    Decoding,
    bytes_of_image,
    check_batch_size,
    errors_of_settings,
)
from captioner.runtime.batches import BatchCaptioner
from captioner.runtime.graphs import Graphs, State
from captioner.runtime.rules import (
    Rule,
    combine,
    forbid,
    min_length,
    no_double_words,
    no_repeat_ngram,
    no_repeat_words,
)
from captioner.runtime.search import beam_search, length_norm
from captioner.runtime.settings import Settings, check_supported, read_settings
from captioner.text.tokenizer import BOS, EOS, PAD, SUPPRESSED, UNK, Vocabulary

if TYPE_CHECKING:
    from captioner.config.schema import DecodingConfig

Search = Callable[[State], list[list[Hypothesis]]]
"""State of B images before the first token -> the captions of each, the best first."""


class _Calibration(NamedTuple):
    temperature: float
    threshold: float | None


class OnnxCaptioner(BatchCaptioner):
    """A trained model that captions images without torch, on the CPU.

    >>> OnnxCaptioner.from_pretrained().caption("photo.jpg").text  # doctest: +SKIP
    'a dog is running through the grass'

    Its captions and scores are those of `TorchCaptioner`, which also
    samples, searches for diverse captions, requires words and explains captions.
    """

    explains = False

    def __init__(self, graphs: Graphs, vocabulary: Vocabulary, config: Mapping[str, Any]) -> None:
        """Take the opened graphs of a model, its vocabulary and its config as plain values."""
        self.graphs, self.vocabulary, self.config = graphs, vocabulary, config
        encoder = config["encoder"]
        self.transform = build_transform(encoder["transform"], encoder["image_size"])
        self.crops = encoder["transform"] == "crop"

    @classmethod
    def from_pretrained(cls, folder: str | Path | None = None) -> Self:
        """Load a model folder that has graphs; without a folder, the bundled model.

        Raises:
            CaptionerError: it is not a model folder, it has no graphs of its weights, or a file of
                it is missing or corrupt.
            UsageError: the model does not read images.
        """
        path = resolve(folder)
        graphs = Graphs(path)
        config, vocabulary, _ = read_folder(path)
        if (kind := config["encoder"].get("kind", "image")) != "image":
            raise UsageError(f"{path} reads {kind}s: use Translator or captioner translate")
        return cls(graphs, vocabulary, config)

    @property
    def calibration(self) -> _Calibration | None:
        """How confidences follow from probabilities; None: there are none."""
        stored = self.config.get("confidence")
        return _Calibration(stored["temperature"], stored.get("threshold")) if stored else None

    def decoding_config(self, changes: Decoding | None = None) -> Settings:
        """Return the model folder's decoding settings with `changes`; a whole config replaces them.

        Raises:
            UsageError: lists everything that is not valid, or needs the backend 'torch'.
        """
        if isinstance(changes, Mapping | None):
            schema = self.graphs.description["decoding"]
            settings = read_settings(changes or {}, self.config["decoding"], schema)
        elif hasattr(changes, "captions") and hasattr(changes, "beam"):
            check_supported(vars(changes))
            settings = cast(Settings, changes)
        else:
            raise UsageError(
                f"{parameter('decoding')} is {str(changes)[:40]!r}: give the settings that differ "
                'as in {"beam": 5}, or a DecodingConfig'
            )
        if settings.min_confidence and self.calibration is None:
            raise UsageError(
                f"{parameter('min_confidence')} needs a calibrated model: run captioner calibrate "
                "on its folder"
            )
        return settings

    def build_search(
        self, decoding: Decoding | None, batch_size: int, sources: object = None
    ) -> tuple[Settings, Search]:
        """Return all decoding settings, and the search that they describe.

        Raises:
            UsageError: a setting is not valid, needs the backend 'torch', or does not fit this
                model or the memory.
        """
        check_batch_size(batch_size)
        settings = self.decoding_config(decoding)
        with errors_of_settings(are_stored=not decoding):
            search = self._build_search(settings)
        check_search_memory(
            cast("DecodingConfig", settings),
            vocab_size=len(self.vocabulary),
            batch_size=min(batch_size, operator.length_hint(sources) or batch_size),
            device=None,
            source_bytes=bytes_of_image(self.config["encoder"]["image_size"]),
        )
        return settings, search

    def _build_search(self, settings: Settings) -> Search:
        prefix, _, forbidden = setting_tokens(settings, self.vocabulary)
        rule = combine(self._rules(settings, forbidden), eos=EOS, prefix=prefix)

        def search(state: State) -> list[list[Hypothesis]]:
            return beam_search(
                self.graphs.step,
                state,
                rule,
                bos=BOS,
                eos=EOS,
                max_length=settings.max_length,
                num_beams=max(settings.beam, settings.captions),
                num_captions=settings.captions,
                norm=length_norm(settings),
            )

        return search

    def _rules(self, settings: Settings, forbidden: Sequence[int]) -> list[Rule]:
        unspaced = self.graphs.description["unspaced"]
        rules = [forbid([*SUPPRESSED, *forbidden])]
        if settings.min_length:
            rules.append(min_length(settings.min_length, eos=EOS))
        if settings.no_repeat_ngram:
            rules.append(no_repeat_ngram(settings.no_repeat_ngram))
        if settings.no_double_words:
            check_tokens_are_words("no_double_words", self.vocabulary)
            rules.append(no_double_words(unspaced))
        if settings.no_repeat_words:
            check_tokens_are_words("no_repeat_words", self.vocabulary)
            exempt = [UNK, *self.graphs.description["function_words"], *unspaced]
            rules.append(no_repeat_words(exempt))
        return rules

    def _caption_batch(
        self, pixels: np.ndarray, search: Search, settings: Settings, *, explain: bool
    ) -> list[Caption]:
        return self._captions(search(self.graphs.init_state(pixels)), settings.min_confidence)

    def _log_probs(
        self, pixels: np.ndarray, token_ids: Sequence[list[int]], source_index: np.ndarray
    ) -> Iterator[list[float]]:
        lengths = np.array([len(ids) - 1 for ids in token_ids])  # (N,) target tokens
        # The longest first: at each step, the captions that have not ended are the first rows.
        order = (-lengths).argsort(kind="stable")  # (N,)
        tokens = np.full((len(order), lengths.max() + 1), PAD, dtype=np.int64)  # (N, T)
        for row, caption in enumerate(order):
            tokens[row, : len(token_ids[caption])] = token_ids[caption]
        state = self.graphs.init_state(pixels)
        state = tuple(part[source_index[order]] for part in state)
        log_probs = np.zeros((len(order), lengths.max()), dtype=np.float32)  # (N, T-1)
        for position in range(lengths.max()):
            active = np.count_nonzero(lengths > position)
            state = tuple(part[:active] for part in state)
            every, state = self.graphs.step(tokens[:active, position], state)  # (active, V)
            targets = tokens[:active, position + 1]
            log_probs[:active, position] = every[np.arange(active), targets]
        rows = order.argsort()  # (N,) of each caption
        return (log_probs[row, :count].tolist() for row, count in zip(rows, lengths, strict=True))
