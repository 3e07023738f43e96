"""The result of a check as one HTML file, without scripts or requests; all text is escaped."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from html import escape
from importlib.resources import files
from pathlib import Path

from captioner.checkup.check import CheckResult
from captioner.checkup.statistics import SplitStatistics
from captioner.checkup.text import describe_count, describe_split
from captioner.data.problems import MAX_EXAMPLES
from captioner.report.bars import histogram
from captioner.report.page import read_stylesheet
from captioner.storage import atomic_file


def write_page(path: Path, result: CheckResult, *, title: str) -> None:
    """Write the page to a file, completely or not at all.

    Raises:
        CaptionerError: the file cannot be written.
    """
    template = (files(__package__) / "checkup.html").read_text(encoding="utf-8")
    head, _, tail = template.partition("{{ body }}")
    head = (
        head.replace("{{ style }}", read_stylesheet(__package__, "checkup.css"))
        .replace("{{ title }}", _escape(title))
        .replace("{{ count }}", describe_count(result))
    )
    body = [*_problems(result), *_splits(result), *_vocabulary(result)]
    with atomic_file(path) as file:
        file.write("\n".join([head, *body, tail]))


def _escape(text: object) -> str:
    """Escape text for HTML. Lone surrogates, which UTF-8 cannot encode, become question marks."""
    return escape(str(text).encode("utf-8", "replace").decode("utf-8"))


def _problems(result: CheckResult) -> Iterator[str]:
    for problems in result.problems:
        for problem in problems:
            yield f"<details><summary><b>{len(problem.cases):,}</b> {_escape(problem.kind)} "
            yield f"<small>{_escape(problems.source)}</small></summary><ul>"
            yield from (f"<li>{_escape(example)}</li>" for example in problem.examples)
            hidden = len(problem.cases) - MAX_EXAMPLES
            yield f"</ul>{f'<p>and {hidden:,} more</p>' if hidden > 0 else ''}</details>"


def _splits(result: CheckResult) -> Iterator[str]:
    yield '<div class="splits">'
    for name, split in result.splits.items():
        yield f"<section><h2>{_escape(name)}</h2><dl>"
        statistics = describe_split(split).items()
        yield from (f"<dt>{label}</dt><dd>{_escape(text)}</dd>" for label, text in statistics)
        yield "</dl>"
        for label, counts in _histograms(split).items():
            if len(counts) > 1:  # a single value is in the list above
                yield f"<h3>{label}</h3>{histogram(counts, label)}"
        yield "</section>"
    yield "</div>"


def _histograms(split: SplitStatistics) -> dict[str, Counter[int]]:
    widths: Counter[int] = Counter()
    heights: Counter[int] = Counter()
    for (width, height), count in split.sizes.items():
        widths[width] += count
        heights[height] += count
    return {
        "captions per image": split.captions_per_image,
        "words per caption": split.words_per_caption,
        "pixels of width": widths,
        "pixels of height": heights,
    }


def _vocabulary(result: CheckResult) -> Iterator[str]:
    names = list(result.splits)
    yield f"<h2>Vocabulary of {_escape(names[0])}</h2>"
    yield "<table><tr><th>minimum count</th><th>words</th>"
    yield "".join(f"<th>coverage of {_escape(name)}</th>" for name in names) + "</tr>"
    for row in result.vocabulary:
        shares = "".join(f"<td>{100 * row.shares[name]:.1f} %</td>" for name in names)
        yield f"<tr><td>{row.min_count}</td><td>{row.words:,}</td>{shares}</tr>"
    yield "</table>"
