"""Paired bootstrap comparison of two sets of captions, or of other texts (Koehn 2004).

Both sets are scored on the same resamples of the images. A resample with many easy images raises
both scores, so the interval of their difference is usually narrower than with separate resamples.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from captioner.captions import ImageId
from captioner.console import one_line
from captioner.metrics.scorer import (
    METRIC_LABELS,
    MIN_IMAGES,
    RESAMPLES,
    Scores,
    label_width,
    percentile_interval,
    resample_sums,
)

MAX_EXAMPLES = 5
"""The most images that are listed as examples for each of the two sets."""


class MetricDifference(NamedTuple):
    """The scores a and b of the two sets in one metric, as fractions, and their difference."""

    a: float
    b: float
    difference: float  # b - a
    low: float  # bounds of the 95 % interval of the difference
    high: float
    b_wins: float  # share of resamples in which b scores higher; a tie counts as one half


class ScoredPair(Protocol):
    """The two texts of one image, or of one source text, and their scores."""

    @property
    def score_a(self) -> float: ...  # noqa: D102
    @property
    def score_b(self) -> float: ...  # noqa: D102

    def lines(self) -> list[str]:
        """Return the texts with their scores times 100, as lines of text."""

    def _asdict(self) -> dict[str, Any]: ...


Pair = TypeVar("Pair", bound=ScoredPair)


class CaptionPair(NamedTuple):
    """The two captions of one image, and their CIDEr-D."""

    image_id: ImageId
    a: str
    b: str
    score_a: float
    score_b: float

    def lines(self) -> list[str]:
        """Return the image and the captions with their scores times 100, as lines of text."""
        return [
            one_line(self.image_id),
            f"  a {100 * self.score_a:>6.1f}  {one_line(self.a)}",
            f"  b {100 * self.score_b:>6.1f}  {one_line(self.b)}",
        ]


@dataclass(frozen=True)
class PairedComparison:
    """The result of comparing two sets of captions of the same images, or of other texts."""

    images: int  # or texts
    differences: Mapping[str, MetricDifference]  # by the name of the metric
    better_a: Sequence[ScoredPair]  # where a leads in `ranked_by`, the largest lead first
    better_b: Sequence[ScoredPair]  # where b leads
    signature: str
    unit: str = "images"
    decided_by: str = "CIDEr"  # the metric of the verdict
    ranked_by: str = "CIDEr"  # the metric of each image

    @property
    def verdict(self) -> str:
        """One line: which set has the higher `decided_by`, and which metrics disagree."""
        if self.images < MIN_IMAGES:
            return f"{self.images:,} {self.unit} are too few to tell which is better"
        decisive = self.differences[self.decided_by]
        sign = -1 if decisive.high < 0 else 1  # makes the winner's lead positive
        low, high = sorted([sign * decisive.low, sign * decisive.high])
        lead = (
            f"{METRIC_LABELS[self.decided_by]} {100 * sign * decisive.difference:+.1f}, "
            f"95 % interval {100 * low:.1f} to {100 * high:.1f}"
        )
        if low <= 0:
            return f"no significant difference on these {self.images:,} {self.unit}: {lead}"
        opposed = [
            METRIC_LABELS[name]
            for name, metric in self.differences.items()
            if sign * metric.low < 0 and sign * metric.high < 0
        ]
        exceptions = f"; but not by {', '.join(opposed)}" if opposed else ""
        return f"{'b' if sign > 0 else 'a'} is better: {lead}{exceptions}"

    def as_dict(self) -> dict[str, object]:
        """Return everything but the number of images, ready for JSON."""
        return {
            "verdict": self.verdict,
            "metrics": {name: metric._asdict() for name, metric in self.differences.items()},
            "better_a": [pair._asdict() for pair in self.better_a],
            "better_b": [pair._asdict() for pair in self.better_b],
            "signature": self.signature,
        }

    def table(self) -> str:
        """Return a text table: scores times 100, the verdict, and the images that differ most."""
        width = label_width(self.differences)
        header = f"{'metric':<{width}}{'a':>8}{'b':>8}{'b - a':>8}"
        rows = [f"{header}   {'95 % interval':<20}{'b wins':>7}"]
        for name, metric in self.differences.items():
            a, b, difference, low, high = (100 * value for value in metric[:5])
            scores = f"{a:>8.2f}{b:>8.2f}{difference:>+8.2f}"
            interval = f"{low:+.2f} to {high:+.2f}"
            row = f"{METRIC_LABELS[name]:<{width}}{scores}   {interval:<20}{metric.b_wins:>7.1%}"
            rows.append(row)
        rows += [
            f"b wins: share of {RESAMPLES:,} resamples of the {self.unit} in which b scores higher "
            "(paired bootstrap)",
            "",
            self.verdict,
        ]
        for name, pairs in (("b", self.better_b), ("a", self.better_a)):
            if pairs:
                label = METRIC_LABELS[self.ranked_by]
                rows += ["", f"{self.unit} on which {name} leads most ({label}):"]
            for pair in pairs:
                rows += pair.lines()
        return "\n".join([*rows, "", self.signature])


def compare(
    captions_a: Mapping[ImageId, str], a: Scores, captions_b: Mapping[ImageId, str], b: Scores
) -> PairedComparison:
    """Return the comparison of two sets of captions, both scored by one `Scorer`."""
    columns = a.statistics.shape[1]
    sums = resample_sums(np.hstack([a.statistics, b.statistics]))  # (2 C, RESAMPLES)
    samples_a, samples_b = (a.compute(part) for part in (sums[:columns], sums[columns:]))
    differences = measure_differences(a.metrics, b.metrics, samples_a, samples_b)
    scores_a, scores_b = a.per_image["CIDEr"], b.per_image["CIDEr"]
    pairs = [
        CaptionPair(image, captions_a[image], captions_b[image], scores_a[image], scores_b[image])
        for image in a.images
    ]
    return PairedComparison(len(a.images), differences, *largest_leads(pairs), a.signature)


def measure_differences(
    a: Mapping[str, float],
    b: Mapping[str, float],
    samples_a: Mapping[str, NDArray[np.float64]],
    samples_b: Mapping[str, NDArray[np.float64]],
) -> dict[str, MetricDifference]:
    """Return the difference of each metric, from its scores and those of each resample.

    Args:
        a: the metrics of one set.
        b: those of the other.
        samples_a: the metrics of a in each resample, (RESAMPLES,) each.
        samples_b: those of b in the same resamples.
    """
    differences = {}
    for name in a:
        difference = _rounded(np.asarray(b[name] - a[name])).item()
        samples = _rounded(samples_b[name] - samples_a[name])  # (RESAMPLES,)
        b_wins = float(np.mean(samples > 0) + np.mean(samples == 0) / 2)
        differences[name] = MetricDifference(
            a[name], b[name], difference, *percentile_interval(samples), b_wins
        )
    return differences


def largest_leads(pairs: Sequence[Pair]) -> tuple[list[Pair], list[Pair]]:
    """Return the pairs in which a leads most, then those in which b does; `MAX_EXAMPLES` each."""
    ranked = sorted(pairs, key=lambda pair: pair.score_b - pair.score_a)
    better_a = [pair for pair in ranked[:MAX_EXAMPLES] if pair.score_a > pair.score_b]
    better_b = [pair for pair in ranked[: -MAX_EXAMPLES - 1 : -1] if pair.score_b > pair.score_a]
    return better_a, better_b


def _rounded(differences: NDArray[np.float64]) -> NDArray[np.float64]:
    """Round differences to 9 digits: smaller ones come from the constants that BLEU adds."""
    return np.round(differences, 9) + 0.0  # adding 0.0 turns -0.0 into 0.0
