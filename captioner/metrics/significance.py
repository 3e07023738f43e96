"""Which of two sets of captions is better, by how much, how sure that is, and on which images (Koehn 2004).

Both are scored on the same images, drawn anew a thousand times: chance that favours an image then favours both.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from captioner.captions import ImageId
from captioner.console import one_line
from captioner.metrics.bootstrap import RESAMPLES, interval, resample
from captioner.metrics.scorer import NAMES, Scores, figures_of

FEWEST = 30
"""With fewer images no verdict is given: the intervals of so few are too narrow."""

SHOWN = 5
"""How many images are named on which one is better."""


class Difference(NamedTuple):
    """By how much b is better than a in one metric: a fraction, as all here."""

    a: float
    b: float
    difference: float  # b - a
    low: float  # its 95 % interval
    high: float
    b_wins: float  # share of the resamples in which b scores higher; equal scores count half


class Contrast(NamedTuple):
    """What the two say of one image, and the CIDEr-D of that."""

    image_id: ImageId
    a: str
    b: str
    score_a: float
    score_b: float


@dataclass(frozen=True)
class Comparison:
    """What there is to say of two sets of captions of the same images."""

    images: int
    differences: Mapping[str, Difference]  # of each metric
    better_a: list[Contrast]  # the images on which a is better most, by CIDEr-D
    better_b: list[Contrast]
    signature: str

    @property
    def verdict(self) -> str:
        """Say which is better, in plain words, by CIDEr-D; and which metrics say the opposite."""
        if self.images < FEWEST:
            return f"{self.images:,} images are too few to tell which is better"
        _, _, difference, low, high, _ = self.differences["CIDEr"]
        sign = -1 if high < 0 else 1  # a winner's lead is told as a plus
        least, most = sorted([sign * low, sign * high])
        found = f"CIDEr-D {100 * sign * difference:+.1f}, 95 % interval {100 * least:.1f} to {100 * most:.1f}"
        if least <= 0:
            return f"no difference that these {self.images:,} images could show: {found}"
        opposed = [
            NAMES[name]
            for name, other in self.differences.items()
            if sign * other.low < 0 and sign * other.high < 0
        ]
        return f"{'b' if sign > 0 else 'a'} is better: {found}" + (
            f"; but not by {', '.join(opposed)}" * bool(opposed)
        )

    def as_dict(self) -> dict[str, object]:
        """Give everything as JSON holds it."""
        return {
            "verdict": self.verdict,
            "metrics": {
                name: difference._asdict() for name, difference in self.differences.items()
            },
            "better_a": [contrast._asdict() for contrast in self.better_a],
            "better_b": [contrast._asdict() for contrast in self.better_b],
            "signature": self.signature,
        }

    def table(self) -> str:
        """Give the differences times 100, the verdict, and the images on which the two differ most."""
        rows = [f"{'metric':<12}{'a':>8}{'b':>8}{'b - a':>8}   {'95 % interval':<20}{'b wins':>7}"]
        for name, (a, b, difference, low, high, b_wins) in self.differences.items():
            span = f"{100 * low:+.2f} to {100 * high:+.2f}"
            rows.append(
                f"{NAMES[name]:<12}{100 * a:>8.2f}{100 * b:>8.2f}{100 * difference:>+8.2f}   {span:<20}{b_wins:>7.1%}"
            )
        rows += [
            f"b wins: in how many of {RESAMPLES:,} resamples of the images b scores higher (paired bootstrap)",
            "",
        ]
        rows += [self.verdict]
        for name, contrasts in (("b", self.better_b), ("a", self.better_a)):
            if contrasts:
                rows += ["", f"{name} is better most on these images (CIDEr-D):"]
            for one in contrasts:
                rows += [
                    one_line(one.image_id),
                    f"  a {100 * one.score_a:>6.1f}  {one_line(one.a)}",
                ]
                rows += [f"  b {100 * one.score_b:>6.1f}  {one_line(one.b)}"]
        return "\n".join([*rows, "", self.signature])


def compare(
    captions_a: Mapping[ImageId, str], a: Scores, captions_b: Mapping[ImageId, str], b: Scores
) -> Comparison:
    """Compare two sets of captions by their scores, which one `Scorer` gave."""
    columns = a.statistics.shape[1]
    sums = resample(np.hstack([a.statistics, b.statistics]))
    samples_a, samples_b = (figures_of(part, a.java) for part in (sums[:columns], sums[columns:]))
    differences = {}
    for name in a.figures:
        difference = _rounded(np.asarray(b.figures[name] - a.figures[name])).item()
        samples = _rounded(samples_b[name] - samples_a[name])
        b_wins = float(np.mean(samples > 0) + np.mean(samples == 0) / 2)
        differences[name] = Difference(
            a.figures[name], b.figures[name], difference, *interval(samples), b_wins
        )
    scores_a, scores_b = a.per_image["CIDEr"], b.per_image["CIDEr"]
    contrasts = sorted(
        (
            Contrast(image, captions_a[image], captions_b[image], scores_a[image], scores_b[image])
            for image in a.images
        ),
        key=lambda contrast: contrast.score_b - contrast.score_a,
    )
    better_a = [contrast for contrast in contrasts[:SHOWN] if contrast.score_a > contrast.score_b]
    better_b = [
        contrast for contrast in contrasts[: -SHOWN - 1 : -1] if contrast.score_b > contrast.score_a
    ]
    return Comparison(len(a.images), differences, better_a, better_b, a.signature)


def _rounded(differences: NDArray[np.float64]) -> NDArray[np.float64]:
    """Leave out what is less than the constants that COCO's BLEU adds to its counts: that is no difference."""
    return np.round(differences, 9) + 0.0  # which makes 0 of -0
