"""Evaluate generated text with sacreBLEU, chrF and BLEU: a model's, or that of a file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from captioner.captions import Translation
from captioner.config.schema import INFERENCE, DecodingConfig
from captioner.errors import UsageError
from captioner.metrics.translation import TranslationEvaluation, TranslationScorer
from captioner.progress import track
from captioner.storage import atomic_file

if TYPE_CHECKING:
    from collections.abc import Mapping

    from captioner.inference.translator import Translator


def evaluate_text(
    translator: Translator,
    sources: Sequence[str],
    references: Sequence[Sequence[str]],
    decoding: DecodingConfig | Mapping[str, object] | None = None,
    *,
    align: bool = False,
    batch_size: int = INFERENCE.batch_size,
    results: Path | None = None,
) -> tuple[list[Translation], TranslationEvaluation]:
    """Return the translation of each source, and the scores of all.

    Args:
        translator: the model.
        sources: the texts that it reads.
        references: those of each source, one or more.
        decoding: settings that replace the model's, as in {"beam": 5}.
        align: also return the attention weights of each word.
        batch_size: texts that are processed at a time.
        results: the file to write the translations to, one a line, before they are scored.

    Raises:
        UsageError: the numbers of sources and references differ, or `decoding` is not valid.
        CaptionerError: `results` cannot be written.
    """
    _check_numbers("sources", sources, references)
    stream = translator.stream(sources, decoding=decoding, align=align, batch_size=batch_size)
    translations = list(track(stream, total=len(sources), doing="translating", unit="texts"))
    outputs = [translation.text for translation in translations]
    if results:
        with atomic_file(results) as file:
            file.writelines(f"{' '.join(text.splitlines())}\n" for text in outputs)
    return translations, score_text(outputs, references)


def score_text(
    outputs: Sequence[str], references: Sequence[Sequence[str]]
) -> TranslationEvaluation:
    """Return the scores of detokenized outputs; texts are named by their line, from 1.

    The project's own BLEU counts words in lower case, as validation in training does.

    Raises:
        UsageError: the numbers of outputs and references differ.
    """
    _check_numbers("outputs", outputs, references)
    return build_text_scorer(references).evaluate(dict(enumerate(outputs, 1)))


def build_text_scorer(references: Sequence[Sequence[str]]) -> TranslationScorer:
    """Return the scorer of texts that are named by their line, from 1.

    Raises:
        UsageError: there are no references.
    """
    from captioner.text.multilingual import WordTokenizer  # imports `regex`

    tokenize = WordTokenizer(fold_case=True).tokenize
    return TranslationScorer(dict(enumerate(references, 1)), tokenize, tokenizer_name="word-lc")


def _check_numbers(name: str, texts: Sequence[str], references: Sequence[Sequence[str]]) -> None:
    if len(texts) != len(references):
        raise UsageError(
            f"there are {len(texts):,} {name} but references of {len(references):,} texts: "
            "pass one of each for each text"
        )
