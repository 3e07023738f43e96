"""The `Translator`: loads a trained model of text, or an ensemble, and translates texts."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Self, TypedDict, Unpack, cast, overload

import torch
from torch import Tensor

from captioner.captions import Translation, Word
from captioner.config.schema import INFERENCE, DecodingConfig
from captioner.data.batching import pad
from captioner.data.streaming import batches_as_ready
from captioner.decoding.search import Search
from captioner.devices import DeviceName, PrecisionName, autocast
from captioner.errors import UsageError, parameter
from captioner.inference.pipeline import Pipeline
from captioner.models.context import AdditiveAttention
from captioner.models.encoder_decoder import EncoderDecoder, Ensemble
from captioner.runtime.base import Decoding
from captioner.runtime.batches import words_of
from captioner.text.tokenizer import BOS, EOS, UNK, Tokenizer
from captioner.types import Batch, Hypothesis, State

_POOL = 32  # batches that are read at a time, and sorted by length


class _Options(TypedDict, total=False):
    """Keyword arguments of `Translator.translate`, for its overloads."""

    decoding: Decoding | None
    align: bool
    batch_size: int


class Translator(Pipeline):
    """A trained model, or an ensemble of several, that generates a text from a text.

    >>> translator = Translator.from_pretrained("runs/multi30k/best")  # doctest: +SKIP
    >>> translator.translate("A dog is running.").text  # doctest: +SKIP
    'Ein Hund rennt.'
    """

    reads = "text"
    hint = "Captioner or captioner caption"

    @classmethod
    def from_pretrained(
        cls,
        *folders: str | Path,
        revision: str | None = None,
        device: DeviceName = INFERENCE.device,
        precision: PrecisionName = INFERENCE.precision,
    ) -> Self:
        """Load a model folder, or an ensemble of several: see `Pipeline.from_pretrained`.

        Raises:
            CaptionerError: a folder is not a model folder, or a file of it is missing or corrupt.
            UsageError: no folder is given, the models do not fit each other, or one reads images.
        """
        if not folders:
            raise UsageError(
                f"{parameter('model')} is missing: name the folder of a model of text, "
                "for example runs/multi30k/best; the bundled model reads images"
            )
        return super().from_pretrained(
            *folders, revision=revision, device=device, precision=precision
        )

    @overload  # a str is an iterable of str: the first overload wins
    def translate(  # type: ignore[overload-overlap]
        self, texts: str, **options: Unpack[_Options]
    ) -> Translation: ...
    @overload
    def translate(self, texts: Iterable[str], **options: Unpack[_Options]) -> list[Translation]: ...

    def translate(
        self,
        texts: str | Iterable[str],
        *,
        decoding: Decoding | None = None,
        align: bool = False,
        batch_size: int = INFERENCE.batch_size,
    ) -> Translation | list[Translation]:
        """Return the translation of one text, or a list of those of several, in their order.

        The translation of an empty text is empty.

        Args:
            texts: a text, or an iterable of texts.
            decoding: settings that differ from the model folder's, as in {"beam": 5}.
            align: also return the attention weights of each word; the model must have attention.
            batch_size: texts that are processed at a time.

        Raises:
            UsageError: `decoding` is not valid, or the model has no attention, which `align` and
                `replace_unknown` need.
        """
        stream = self.stream(
            [texts] if isinstance(texts, str) else texts,
            decoding=decoding,
            align=align,
            batch_size=batch_size,
        )
        return next(stream) if isinstance(texts, str) else list(stream)

    def stream(
        self,
        texts: Iterable[str],
        *,
        decoding: Decoding | None = None,
        align: bool = False,
        batch_size: int = INFERENCE.batch_size,
    ) -> Iterator[Translation]:
        """Yield the translation of each text, in order.

        Some batches of texts are read at a time and sorted by length, so that they need little
        padding. A translation does not depend on the other texts. An iterable that is no list is
        asked for texts in a thread of its own, and they are translated as they come: those that
        have come are when no text follows for 50 ms. An exception of the iterable is raised after
        the translations of the texts before it.

        Raises:
            UsageError: as for `translate`, or `texts` is one text.
        """
        if isinstance(texts, str):
            raise UsageError(f"{parameter('texts')} is one text: give a list of texts")
        settings, search = self.build_search(decoding, batch_size, texts)
        if align or settings.replace_unknown:
            self._check_attention("align" if align else "replace_unknown")
        return self._in_pools(texts, search, settings, align=align, batch_size=batch_size)

    @property
    def has_attention(self) -> bool:
        """Whether all models have attention, which `align` and `replace_unknown` need."""
        return all(isinstance(model.decoder.context, AdditiveAttention) for model in self.models)

    def _check_attention(self, setting: str) -> None:
        if not self.has_attention:
            raise UsageError(
                f"{parameter(setting)} needs a model with attention: leave it out, or train one "
                "with decoder.context=attention"
            )

    def _in_pools(
        self,
        texts: Iterable[str],
        search: Search,
        settings: DecodingConfig,
        *,
        align: bool,
        batch_size: int,
    ) -> Iterator[Translation]:
        tokenizer = self.source_vocabulary.tokenizer
        needs_case = align or settings.replace_unknown
        ready = batches_as_ready(texts, _POOL * batch_size, start=lambda text: text)
        with closing(ready) as pools:
            for pool in pools:
                tokens = [tokenizer.tokenize(text) for text in pool]
                shown = [_with_case(tokenizer, text) for text in pool] if needs_case else tokens
                translations = [Translation("", (), 0.0)] * len(pool)  # that of an empty text
                order = sorted((len(words), index) for index, words in enumerate(tokens) if words)
                for start in range(0, len(order), batch_size):
                    indices = [index for _, index in order[start : start + batch_size]]
                    results = self._translate_batch(
                        [tokens[index] for index in indices],
                        [shown[index] for index in indices],
                        search,
                        settings,
                        align=align,
                    )
                    for index, translation in zip(indices, results, strict=True):
                        translations[index] = translation
                yield from translations

    def _translate_batch(
        self,
        sources: Sequence[Sequence[str]],
        shown: Sequence[Sequence[str]],
        search: Search,
        settings: DecodingConfig,
        *,
        align: bool,
    ) -> list[Translation]:
        """Translate the tokens of texts; `shown` are the same in the case of the texts."""
        token_ids, _ = pad([self.source_vocabulary.encode_source(words) for words in sources])
        state, ranked = self._generate(token_ids, search, settings)  # of sources (B, P)
        rows = [row for row, hypotheses in enumerate(ranked) for _ in hypotheses]
        flat = [hypothesis for hypotheses in ranked for hypothesis in hypotheses]
        needs_weights = align or settings.replace_unknown
        weights = self._attention(state, flat, rows) if needs_weights else [None] * len(flat)
        tokenize = self.vocabulary.tokenizer.tokenize
        forbidden = {token for text in settings.forbid for token in tokenize(text)}
        translations = iter(
            self._to_translation(
                hypothesis, sources[row], shown[row], own, forbidden=forbidden, align=align
            )
            for hypothesis, row, own in zip(flat, rows, weights, strict=True)
        )
        results = []
        for hypotheses in ranked:
            best, *others = (next(translations) for _ in hypotheses)
            results.append(replace(best, others=tuple(others)))
        return results

    @torch.inference_mode()
    def _attention(
        self, state: State, hypotheses: Sequence[Hypothesis], rows: Sequence[int]
    ) -> list[Tensor]:
        """Return the attention weights (words, P) of each hypothesis; `rows` are its sources.

        The hypotheses are decoded once more from `state`, all at once, which yields the weights of
        the search. Those of an ensemble are the mean over its models.
        """
        tokens, mask = pad([[BOS, *each.token_ids, EOS] for each in hypotheses])  # (N, T)
        source_index = torch.tensor(rows)
        batch = Batch(tokens[:0], tokens, mask, source_index, source_index).to(self.device)
        model = self.step_model
        parts = model.split(state) if isinstance(model, Ensemble) else [(model, state)]
        with autocast(self.device, self.precision):
            outputs = [cast(EncoderDecoder, each).decode(batch, own) for each, own in parts]
        weights = torch.stack([cast(Tensor, output.weights).float() for output in outputs])
        lengths = [len(each.token_ids) + 1 for each in hypotheses]  # with <eos>
        return [each[:-1] for each in torch.split(weights.mean(dim=0).cpu(), lengths)]

    def _to_translation(
        self,
        hypothesis: Hypothesis,
        source: Sequence[str],
        shown: Sequence[str],
        weights: Tensor | None,
        *,
        forbidden: Collection[str],
        align: bool,
    ) -> Translation:
        """Return the text of a hypothesis; `weights` (words, P) replace its unknown words.

        The source word with the largest weight takes the place of an unknown word, in the case of
        `shown`. Words that are `forbidden` do not; an unknown word for which none is left is left
        out.
        """
        forms = zip(source, shown, strict=True)  # of each source word: as read, and as written
        may_be_copied = torch.tensor([{*each}.isdisjoint(forbidden) for each in forms])  # (P,)
        generated = words_of(hypothesis, self.vocabulary, self.config.confidence)
        words: list[Word] = []
        alignment: list[tuple[float, ...]] = []
        copied: set[int] = set()  # positions in `words`
        for position, word in enumerate(generated):
            own = None if weights is None else weights[position, : len(source)]  # (P,)
            if own is not None and hypothesis.token_ids[position] == UNK:
                if not may_be_copied.any():
                    continue
                attended = int(own.masked_fill(~may_be_copied, -1.0).argmax())
                copied.add(len(words))
                word = replace(word, text=shown[attended])
            words.append(word)
            if own is not None:
                alignment.append(tuple(own.tolist()))
        return Translation(
            self.vocabulary.tokenizer.detokenize([word.text for word in words], copied),
            tuple(words),
            hypothesis.log_prob,
            tuple(shown),
            tuple(alignment) if align else None,
        )


def _with_case(tokenizer: Tokenizer, text: str) -> list[str]:
    """Return the tokens of a text in its own case, though the model may read lower case."""
    from captioner.text.multilingual import WordTokenizer

    tokens = tokenizer.tokenize(text)
    cased = WordTokenizer().tokenize(text) if isinstance(tokenizer, WordTokenizer) else tokens
    return cased if len(cased) == len(tokens) else tokens
