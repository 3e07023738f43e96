"""A data set's check-up as plain values, and as text for a terminal."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

from captioner.checkup.check import Checkup
from captioner.checkup.statistics import Coverage, SplitStatistics
from captioner.console import one_line
from captioner.data.problems import SHOWN

COMMONEST = 5  # sizes and modes that are named


def as_values(checkup: Checkup) -> dict[str, Any]:
    """Give all of it as JSON holds it; shares are fractions."""
    return {
        "found": checkup.found,
        "problems": [
            {
                "source": str(problems.source),
                "kind": problem.kind,
                "stops_training": problem.grave,
                "count": len(problem.things),
                "examples": problem.examples,
            }
            for problems in checkup.problems
            for problem in problems
        ],
        "splits": {name: _values_of(split) for name, split in checkup.splits.items()},
        "vocabulary": [row._asdict() for row in checkup.vocabulary],
    }


def _values_of(split: SplitStatistics) -> dict[str, Any]:
    return {
        "images": split.images,
        "captions": split.captions,
        "captions_per_image": dict(sorted(split.captions_per_image.items())),
        "words_per_caption": dict(sorted(split.words_per_caption.items())),
        "sizes": {
            f"{width} x {height}": count for (width, height), count in split.sizes.most_common()
        },
        "modes": dict(split.modes.most_common()),
    }


def as_text(checkup: Checkup) -> str:
    """Write it for people: what the data are like, then what is wrong."""
    return "\n".join([*_likeness(checkup), "", *_complaints(checkup)])


def facts(split: SplitStatistics) -> dict[str, str]:
    """Say in a line each what a split is like."""
    sizes = Counter(
        {f"{width} x {height}": count for (width, height), count in split.sizes.items()}
    )
    return {
        "images": f"{split.images:,}",
        "captions": f"{split.captions:,}",
        "captions per image": _spread(split.captions_per_image),
        "words per caption": _spread(split.words_per_caption),
        "image sizes": _commonest(sizes),
        "image modes": _commonest(split.modes),
    }


def verdict(checkup: Checkup) -> str:
    """Say how much is wrong."""
    return (
        f"{checkup.found:,} problem{'s' * (checkup.found != 1)}" if checkup.found else "no problems"
    )


def kept_if_seen(row: Coverage) -> str:
    """Say how often a word has to be seen."""
    return f"{row.min_count} time{'s' * (row.min_count > 1)}"


def _likeness(checkup: Checkup) -> Iterator[str]:
    for name, split in checkup.splits.items():
        yield one_line(name)
        yield from (f"  {what:<20}{text}" for what, text in facts(split).items())
    names = list(checkup.splits)
    yield f"vocabulary of {one_line(names[0])}, and the share of all words that it knows"
    yield f"  {'a word is kept if seen':<24}{'words':>8}  " + "  ".join(
        f"{one_line(name):>12}" for name in names
    )
    for row in checkup.vocabulary:
        shares = "  ".join(f"{100 * row.shares[name]:>10.1f} %" for name in names)
        yield f"  {kept_if_seen(row):<24}{row.words:>8,}  {shares}"


def _complaints(checkup: Checkup) -> Iterator[str]:
    yield verdict(checkup)
    for problems in checkup.problems:
        for problem in problems:
            yield f"{problems.source}: {problem.kind}: {len(problem.things):,}"
            yield from (f"  {one_line(example)}" for example in problem.examples)
            if len(problem.things) > SHOWN:
                yield f"  and {len(problem.things) - SHOWN:,} more"


def _spread(counts: Counter[int]) -> str:
    if not counts:
        return "none"
    values = sorted(counts.elements())
    median = values[len(values) // 2]
    return (
        f"{values[0]} to {values[-1]}, median {median}" if values[0] < values[-1] else f"{median}"
    )


def _commonest(counts: Counter[str]) -> str:
    named = ", ".join(f"{name} ({count:,})" for name, count in counts.most_common(COMMONEST))
    return (
        named + (f" and {len(counts) - COMMONEST:,} others" if len(counts) > COMMONEST else "")
        or "none"
    )
