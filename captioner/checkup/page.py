"""A data set's check-up → one HTML file without scripts, that asks for nothing. All text is escaped."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from html import escape
from importlib.resources import files
from pathlib import Path

from captioner.checkup.check import Checkup
from captioner.checkup.statistics import SplitStatistics
from captioner.checkup.text import facts, kept_if_seen, verdict
from captioner.data.problems import SHOWN
from captioner.report.bars import histogram
from captioner.report.page import style
from captioner.storage import new_file


def write_checkup(path: Path, checkup: Checkup, *, title: str) -> None:
    """Write the page, whole or not at all.

    Raises:
        CaptionerError: the file cannot be written.
    """
    page = (files(__package__) / "checkup.html").read_text(encoding="utf-8")
    head, _, tail = page.replace("{{ style }}", style(__package__, "checkup.css")).partition(
        "{{ body }}"
    )
    head = head.replace("{{ title }}", _text(title)).replace("{{ verdict }}", verdict(checkup))
    parts = [*_complaints(checkup), *_splits(checkup), *_vocabulary(checkup)]
    with new_file(path) as file:
        file.write("\n".join([head, *parts, tail]))


def _text(text: object) -> str:
    """Escape text for HTML; half a letter, which UTF-8 cannot hold, becomes a question mark."""
    return escape(str(text).encode("utf-8", "replace").decode("utf-8"))


def _complaints(checkup: Checkup) -> Iterator[str]:
    for problems in checkup.problems:
        for problem in problems:
            yield f"<details><summary><b>{len(problem.things):,}</b> {_text(problem.kind)} "
            yield f"<small>{_text(problems.source)}</small></summary><ul>"
            yield from (f"<li>{_text(example)}</li>" for example in problem.examples)
            more = len(problem.things) - SHOWN
            yield f"</ul>{f'<p>and {more:,} more</p>' if more > 0 else ''}</details>"


def _splits(checkup: Checkup) -> Iterator[str]:
    yield '<div class="splits">'
    for name, split in checkup.splits.items():
        yield f"<section><h2>{_text(name)}</h2><dl>"
        yield from (f"<dt>{what}</dt><dd>{_text(text)}</dd>" for what, text in facts(split).items())
        yield "</dl>"
        for what, counts in _measures(split).items():
            if len(counts) > 1:  # a single value is said above
                yield f"<h3>{what}</h3>{histogram(counts, what)}"
        yield "</section>"
    yield "</div>"


def _measures(split: SplitStatistics) -> dict[str, Counter[int]]:
    """Give what histograms are drawn of."""
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


def _vocabulary(checkup: Checkup) -> Iterator[str]:
    names = list(checkup.splits)
    yield f"<h2>Vocabulary of {_text(names[0])}</h2><table><tr><th>a word is kept if seen</th><th>words</th>"
    yield "".join(f"<th>known of {_text(name)}</th>" for name in names) + "</tr>"
    for row in checkup.vocabulary:
        shares = "".join(f"<td>{100 * row.shares[name]:.1f} %</td>" for name in names)
        yield f"<tr><td>{kept_if_seen(row)}</td><td>{row.words:,}</td>{shares}</tr>"
    yield "</table>"
