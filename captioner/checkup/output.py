"""The result of a check as JSON, as text for a terminal, and as an HTML page.

The page has no scripts and requests nothing. All text in it is escaped.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import Any

from captioner.checkup.check import CheckResult
from captioner.checkup.statistics import Coverage, SplitStatistics
from captioner.console import one_line
from captioner.data.problems import MAX_EXAMPLES
from captioner.report.page import read_stylesheet
from captioner.storage import atomic_file

MAX_NAMED = 5  # image sizes and modes
WIDTH, HEIGHT, AXIS_HEIGHT = 480, 150, 22  # of a histogram, and of its axis
MAX_BARS = 40
MAX_TICKS = 6


def to_json(result: CheckResult) -> dict[str, Any]:
    """Return the result as JSON values; shares are fractions."""
    return {
        "found": result.num_problems,
        "problems": [
            {
                "source": str(problems.source),
                "kind": problem.kind,
                "stops_training": problem.is_error,
                "count": len(problem.cases),
                "examples": problem.examples,
            }
            for problems in result.problems
            for problem in problems
        ],
        "splits": {name: _statistics_to_json(split) for name, split in result.splits.items()},
        **{
            name.replace(" ", "_"): [row._asdict() for row in rows]
            for name, rows in _vocabularies(result).items()
        },
    }


def _vocabularies(result: CheckResult) -> dict[str, list[Coverage]]:
    """Return the tables of coverage: one of captions, or one of each side of pairs."""
    if not result.source_vocabulary:
        return {"vocabulary": result.vocabulary}
    return {
        "source vocabulary": result.source_vocabulary,
        "target vocabulary": result.vocabulary,
    }


def _statistics_to_json(split: SplitStatistics) -> dict[str, Any]:
    if split.pairs is not None:
        return {
            "pairs": split.pairs,
            "targets": split.captions,
            "targets_per_source": dict(sorted(split.captions_per_image.items())),
            "words_per_source": dict(sorted(split.words_per_source.items())),
            "words_per_target": dict(sorted(split.words_per_caption.items())),
        }
    return {
        "images": split.images,
        "captions": split.captions,
        "captions_per_image": dict(sorted(split.captions_per_image.items())),
        "words_per_caption": dict(sorted(split.words_per_caption.items())),
        "sizes": dict(_size_counts(split).most_common()),
        "modes": dict(split.modes.most_common()),
    }


def to_text(result: CheckResult) -> str:
    """Return the statistics and then the problems as lines of text."""
    return "\n".join([*_statistics_lines(result), "", *_problem_lines(result)])


def describe_split(split: SplitStatistics) -> dict[str, str]:
    """Return the statistics of a split, each as a label and a text of one line."""
    if split.pairs is not None:
        return {
            "pairs": f"{split.pairs:,}",
            "targets per source": _range(split.captions_per_image),
            "words per source": _range(split.words_per_source),
            "words per target": _range(split.words_per_caption),
        }
    text = {
        "captions": f"{split.captions:,}",
        "words per caption": _range(split.words_per_caption),
    }
    if not split.images:
        return {"images": "none: text" if split.captions else "none", **text}
    return {
        "images": f"{split.images:,}",
        "captions": text["captions"],
        "captions per image": _range(split.captions_per_image),
        "words per caption": text["words per caption"],
        "image sizes": _most_common(_size_counts(split)),
        "image modes": _most_common(split.modes),
    }


def describe_count(result: CheckResult) -> str:
    """Return the number of problems, as in "1 problem"."""
    count = result.num_problems
    return f"{count:,} problem{'s' * (count > 1)}" if count else "no problems"


def _statistics_lines(result: CheckResult) -> Iterator[str]:
    for name, split in result.splits.items():
        yield one_line(name)
        yield from (f"  {label:<20}{text}" for label, text in describe_split(split).items())
    names = [one_line(name) for name in result.splits]
    learnt = " and ".join(map(one_line, result.learnt))
    for label, rows in _vocabularies(result).items():
        yield f"{label} of {learnt}, and the share of each split's words that it covers"
        yield f"  {'minimum count':<24}{'words':>8}  " + "  ".join(f"{name:>12}" for name in names)
        for row in rows:
            shares = "  ".join(f"{100 * row.shares[name]:>10.1f} %" for name in result.splits)
            yield f"  {row.min_count:<24}{row.words:>8,}  {shares}"


def _problem_lines(result: CheckResult) -> Iterator[str]:
    yield describe_count(result)
    for problems in result.problems:
        for problem in problems:
            yield f"{problems.source}: {problem.kind}: {len(problem.cases):,}"
            yield from (f"  {one_line(example)}" for example in problem.examples)
            if len(problem.cases) > MAX_EXAMPLES:
                yield f"  and {len(problem.cases) - MAX_EXAMPLES:,} more"


def _size_counts(split: SplitStatistics) -> Counter[str]:
    return Counter({f"{width} x {height}": count for (width, height), count in split.sizes.items()})


def _range(counts: Counter[int]) -> str:
    if not counts:
        return "none"
    values = sorted(counts.elements())
    low, median, high = values[0], values[len(values) // 2], values[-1]
    return f"{low} to {high}, median {median}" if low < high else str(median)


def _most_common(counts: Counter[str]) -> str:
    named = ", ".join(f"{name} ({count:,})" for name, count in counts.most_common(MAX_NAMED))
    others = len(counts) - MAX_NAMED
    return f"{named} and {others:,} others" if others > 0 else named or "none"


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
    if split.pairs is not None:
        return {
            "targets per source": split.captions_per_image,
            "words per source": split.words_per_source,
            "words per target": split.words_per_caption,
        }
    return {
        "captions per image": split.captions_per_image,
        "words per caption": split.words_per_caption,
        "pixels of width": Counter(width for width, _ in split.sizes.elements()),
        "pixels of height": Counter(height for _, height in split.sizes.elements()),
    }


def _vocabulary(result: CheckResult) -> Iterator[str]:
    names = list(result.splits)
    for label, rows in _vocabularies(result).items():
        yield f"<h2>{label.capitalize()} of {_escape(' and '.join(result.learnt))}</h2>"
        yield "<table><tr><th>minimum count</th><th>words</th>"
        yield "".join(f"<th>coverage of {_escape(name)}</th>" for name in names) + "</tr>"
        for row in rows:
            shares = "".join(f"<td>{100 * row.shares[name]:.1f} %</td>" for name in names)
            yield f"<tr><td>{row.min_count}</td><td>{row.words:,}</td>{shares}</tr>"
        yield "</table>"


def histogram(counts: Mapping[int, int], unit: str) -> str:
    """Return an SVG histogram of integers.

    Args:
        counts: how often each integer occurs, for at least one integer.
        unit: what the integers count, for example "words per caption"; it is escaped here.
    """
    step = _bin_width(max(counts) - min(counts) + 1)
    first = min(counts) // step
    bins = [0] * (max(counts) // step - first + 1)
    for value, count in counts.items():
        bins[value // step - first] += count
    width, largest = WIDTH / len(bins), max(bins)
    tick_every = math.ceil(len(bins) / MAX_TICKS)
    parts = []
    for index, count in enumerate(bins):
        low = (first + index) * step
        name = f"{low:,}" if step == 1 else f"{low:,} to {low + step - 1:,}"
        height = HEIGHT * count / largest
        parts.append(
            f'<rect x="{index * width + 0.5:.1f}" y="{HEIGHT - height:.1f}" '
            f'width="{max(0.5, width - 1):.1f}" height="{height:.1f}">'
            f"<title>{name} {escape(unit)}: {count:,}</title></rect>"
        )
        if index % tick_every == 0:
            parts.append(
                f'<text x="{(index + 0.5) * width:.1f}" y="{HEIGHT + AXIS_HEIGHT - 6}">'
                f"{low:,}</text>"
            )
    parts.append(f'<line x2="{WIDTH}" y1="{HEIGHT}" y2="{HEIGHT}"/>')
    label = escape(f"histogram of {unit}: from {min(counts):,} to {max(counts):,}", quote=True)
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT + AXIS_HEIGHT}" role="img" aria-label="{label}">'
        f"{''.join(parts)}</svg>"
    )


def _bin_width(span: int) -> int:
    """Return the smallest of 1, 2, 5, 10, 20, 50, ... with at most `MAX_BARS` bins in the span."""
    power = 1
    while span > 10 * power * MAX_BARS:
        power *= 10
    return next(power * factor for factor in (1, 2, 5, 10) if span <= power * factor * MAX_BARS)
