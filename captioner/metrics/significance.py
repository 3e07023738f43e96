"""Paired bootstrap comparison of two sets of captions (Koehn 2004).

Both sets are scored on the same resamples of the images. A resample with many easy images raises
both scores, so the interval of their difference is usually narrower than with separate resamples.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from captioner.captions import ImageId
from captioner.console import one_line
from captioner.metrics.scorer import (
    METRIC_LABELS,
    RESAMPLES,
    Scores,
    compute_metrics,
    percentile_interval,
    resample_sums,
)

MIN_IMAGES = 30
"""With fewer images the intervals are too narrow, and the comparison gives no verdict."""

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
    """The result of comparing two sets of captions of the same images."""

    images: int
    differences: Mapping[str, MetricDifference]  # by the name of the metric
    better_a: list[CaptionPair]  # where a leads in CIDEr-D, the largest lead first
    better_b: list[CaptionPair]  # where b leads
    signature: str

    @property
    def verdict(self) -> str:
        """One line: which set has the higher CIDEr-D, and which metrics disagree."""
        if self.images < MIN_IMAGES:
            return f"{self.images:,} images are too few to tell which is better"
        cider_d = self.differences["CIDEr"]
        sign = -1 if cider_d.high < 0 else 1  # makes the winner's lead positive
        low, high = sorted([sign * cider_d.low, sign * cider_d.high])
        lead = (
            f"CIDEr-D {100 * sign * cider_d.difference:+.1f}, "
            f"95 % interval {100 * low:.1f} to {100 * high:.1f}"
        )
        if low <= 0:
            return f"no significant difference on these {self.images:,} images: {lead}"
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
        rows = [f"{'metric':<12}{'a':>8}{'b':>8}{'b - a':>8}   {'95 % interval':<20}{'b wins':>7}"]
        for name, metric in self.differences.items():
            a, b, difference, low, high = (100 * value for value in metric[:5])
            scores = f"{a:>8.2f}{b:>8.2f}{difference:>+8.2f}"
            interval = f"{low:+.2f} to {high:+.2f}"
            rows.append(f"{METRIC_LABELS[name]:<12}{scores}   {interval:<20}{metric.b_wins:>7.1%}")
        rows += [
            f"b wins: share of {RESAMPLES:,} resamples of the images in which b scores higher "
            "(paired bootstrap)",
            "",
            self.verdict,
        ]
        for name, pairs in (("b", self.better_b), ("a", self.better_a)):
            if pairs:
                rows += ["", f"images on which {name} leads most (CIDEr-D):"]
            for pair in pairs:
                rows += pair.lines()
        return "\n".join([*rows, "", self.signature])


def compare(
    captions_a: Mapping[ImageId, str], a: Scores, captions_b: Mapping[ImageId, str], b: Scores
) -> PairedComparison:
    """Return the comparison of two sets of captions, both scored by one `Scorer`."""
    columns = a.statistics.shape[1]
    sums = resample_sums(np.hstack([a.statistics, b.statistics]))  # (2 C, RESAMPLES)
    samples_a, samples_b = (
        compute_metrics(part, a.java) for part in (sums[:columns], sums[columns:])
    )
    differences = {}
    for name in a.metrics:
        difference = _rounded(np.asarray(b.metrics[name] - a.metrics[name])).item()
        samples = _rounded(samples_b[name] - samples_a[name])  # (RESAMPLES,)
        b_wins = float(np.mean(samples > 0) + np.mean(samples == 0) / 2)
        differences[name] = MetricDifference(
            a.metrics[name], b.metrics[name], difference, *percentile_interval(samples), b_wins
        )
    scores_a, scores_b = a.per_image["CIDEr"], b.per_image["CIDEr"]
    pairs = [
        CaptionPair(image, captions_a[image], captions_b[image], scores_a[image], scores_b[image])
        for image in a.images
    ]
    pairs.sort(key=lambda pair: pair.score_b - pair.score_a)
    better_a = [pair for pair in pairs[:MAX_EXAMPLES] if pair.score_a > pair.score_b]
    better_b = [pair for pair in pairs[: -MAX_EXAMPLES - 1 : -1] if pair.score_b > pair.score_a]
    return PairedComparison(len(a.images), differences, better_a, better_b, a.signature)


def _rounded(differences: NDArray[np.float64]) -> NDArray[np.float64]:
    """Round differences to 9 digits: smaller ones come from the constants that BLEU adds."""
    return np.round(differences, 9) + 0.0  # adding 0.0 turns -0.0 into 0.0
