"""Writes texts with their translations and attention weights to one HTML file.

Text from outside is in JSON blocks only, as in page.py: the page loads and runs nothing else.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from captioner.captions import Translation
from captioner.config.schema import DecodingConfig
from captioner.metrics.scorer import METRIC_LABELS
from captioner.metrics.translation import TranslationEvaluation
from captioner.report.build import describe
from captioner.report.page import rounded, to_json, write_page

MAX_CELLS = 10_000
"""The most cells of a heat map: a browser becomes slow with more of them."""


class TextEntry(NamedTuple):
    """A text with its translation."""

    line: int  # in its file, from 1
    text: str
    translation: Translation
    references: Sequence[str] = ()
    chrf: float | None = None  # as a fraction


def report_translations(
    path: Path,
    entries: Sequence[TextEntry],
    *,
    models: Sequence[str | Path],
    decoding: DecodingConfig,
    name: str,
) -> None:
    """Write a report of texts without references.

    Raises:
        CaptionerError: the file cannot be written; an existing file is kept.
    """
    title = f"{name}, {len(entries):,} translation{'' if len(entries) == 1 else 's'}"
    _write(path, entries, title=title, about=describe(models, decoding), figures={})


def report_text_evaluation(
    path: Path,
    texts: Sequence[str],
    translations: Sequence[Translation],
    evaluation: TranslationEvaluation,
    *,
    models: Sequence[str | Path],
    decoding: DecodingConfig,
    name: str,
) -> None:
    """Write a report of texts with their references and scores.

    Raises:
        CaptionerError: the file cannot be written; an existing file is kept.
    """
    entries = [
        TextEntry(line, text, translation, references, score)
        for line, (text, translation, references, score) in enumerate(
            zip(
                texts,
                translations,
                evaluation.references.values(),
                evaluation.sentence_chrf,
                strict=True,
            ),
            start=1,
        )
    ]
    figures = {}
    for metric, score in evaluation.metrics.items():
        low, high = (100 * bound for bound in evaluation.intervals[metric])
        figures[METRIC_LABELS[metric]] = f"{100 * score:.1f} ({low:.1f} – {high:.1f})"
    about = {**describe(models, decoding), "signatures": evaluation.signature_lines}
    title = f"{name}, {len(entries):,} text{'' if len(entries) == 1 else 's'}"
    _write(path, entries, title=title, about=about, figures=figures)


def _write(
    path: Path,
    entries: Iterable[TextEntry],
    *,
    title: str,
    about: Mapping[str, str],
    figures: Mapping[str, str],
) -> None:
    report = {"title": title, "about": dict(about), "figures": dict(figures)}
    lines = map(_entry_json, entries)
    write_page(path, report, lines, name="alignment", scripts=("alignment.js",))


def _entry_json(entry: TextEntry) -> str:
    """Return the JSON object of an entry, on one line."""
    translation = entry.translation
    return to_json(
        {
            "line": entry.line,
            "text": entry.text,
            "source": list(translation.source),
            "translation": translation.text,
            "words": [[word.text, rounded(math.exp(word.log_prob))] for word in translation.words],
            **_encode(translation),
            "logProb": rounded(translation.log_prob),
            "others": [[other.text, rounded(other.log_prob)] for other in translation.others],
            "references": list(entry.references),
            "chrf": None if entry.chrf is None else rounded(100 * entry.chrf),
        }
    )


def _encode(translation: Translation) -> dict[str, str]:
    """Return the attention weights, row by row, as bytes from 0 to 255 in base64.

    Without weights, nothing is returned; in place of too many of them, the reason.
    """
    if not translation.alignment:
        return {}
    rows, columns = len(translation.words), len(translation.source)
    if rows * columns > MAX_CELLS:
        return {"skipped": f"The heat map has {rows:,} × {columns:,} cells and is not drawn."}
    cells = [round(255 * weight) for row in translation.alignment for weight in row]
    return {"weights": base64.b64encode(bytes(cells)).decode()}
