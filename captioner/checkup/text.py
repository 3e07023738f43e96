"""The result of a check as JSON and as text for a terminal."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

from captioner.checkup.check import CheckResult
from captioner.checkup.statistics import SplitStatistics
from captioner.console import one_line
from captioner.data.problems import MAX_EXAMPLES

MAX_NAMED = 5  # image sizes and modes


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
        "vocabulary": [row._asdict() for row in result.vocabulary],
    }


def _statistics_to_json(split: SplitStatistics) -> dict[str, Any]:
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
    return {
        "images": f"{split.images:,}",
        "captions": f"{split.captions:,}",
        "captions per image": _range(split.captions_per_image),
        "words per caption": _range(split.words_per_caption),
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
    yield f"vocabulary of {names[0]}, and the share of each split's words that it covers"
    yield f"  {'minimum count':<24}{'words':>8}  " + "  ".join(f"{name:>12}" for name in names)
    for row in result.vocabulary:
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
