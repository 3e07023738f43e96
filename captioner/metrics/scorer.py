"""Scores of raw captions in COCO's metrics, with bootstrap intervals, diversity and a signature."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from captioner.captions import ImageId
from captioner.errors import UsageError, parameter, summarize
from captioner.metrics.bleu import Bleu, bleu
from captioner.metrics.cider import Cider, CiderD, ReferenceNgrams
from captioner.metrics.diversity import Diversity, measure_diversity
from captioner.metrics.java import JAVA_METRICS, JavaMetricName
from captioner.metrics.meteor import FULL_NAME, PARTIAL_NAME, Meteor, meteor
from captioner.metrics.meteor_words import way_to_table
from captioner.metrics.rouge import RougeL
from captioner.metrics.signature import build_signature
from captioner.text.tokenizer import tokenize

METRIC_LABELS = {
    **{f"Bleu_{n}": f"BLEU-{n}" for n in range(1, 5)},
    **{FULL_NAME: "METEOR", PARTIAL_NAME: "METEOR, no paraphrases"},
    **{"ROUGE_L": "ROUGE-L", "CIDEr": "CIDEr-D", "CIDEr_plain": "CIDEr"},
    **{"METEOR_java": "METEOR, Java", "SPICE": "SPICE"},
    **{"BLEU": "sacreBLEU", "BLEU_lc": "sacreBLEU lc", "chrF": "chrF", "exact": "exact match"},
}
"""The labels of the metrics in tables and pages. In code and JSON they have COCO's names, or
those of `captioner.metrics.translation`."""


RESAMPLES = 1_000
CONFIDENCE_LEVEL = 0.95
"""The probability that an interval contains the score of the population of images."""
MIN_IMAGES = 30
"""With fewer images the intervals are too narrow, and CIDEr says little."""
_SEED = 0  # the draws of the bootstrap are the same in every run


@dataclass(frozen=True, eq=False)
class Scores:
    """The metrics of one set of captions, and what you need to compare them with other scores.

    Metrics have COCO's names: "CIDEr" is CIDEr-D, and "CIDEr_plain" is CIDEr. These two range from
    0 to 10, all others from 0 to 1.
    """

    images: Sequence[ImageId]  # I images
    statistics: NDArray[np.float64]  # (I, C) the columns that `compute_metrics` describes
    java: Sequence[JavaMetricName]  # the metrics that Java computed
    meteor_name: str  # see `Meteor.name`
    diversity: Diversity
    reference_diversity: Diversity  # of the first reference of each image
    signature: str

    @cached_property
    def metrics(self) -> dict[str, float]:
        """The value of each metric on the whole set, not rounded."""
        sums = self.statistics.sum(axis=0)[:, None]  # (C, 1)
        return {name: value.item() for name, value in self.compute(sums).items()}

    @cached_property
    def per_image(self) -> dict[str, dict[ImageId, float]]:
        """The value of each metric on each image alone; BLEU is then sentence BLEU."""
        values = self.compute(self.statistics.T)
        return {
            name: dict(zip(self.images, scores.tolist(), strict=True))
            for name, scores in values.items()
        }

    @cached_property
    def intervals(self) -> dict[str, tuple[float, float]]:
        """The 95 % bootstrap interval of each metric; CIDEr's document frequencies stay fixed.

        With fewer than about `MIN_IMAGES` images the intervals are too narrow.
        """
        samples = self.compute(resample_sums(self.statistics))
        return {name: percentile_interval(values) for name, values in samples.items()}

    def compute(self, sums: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
        """Return each metric (S,) from sums (C, S) of `statistics`: see `compute_metrics`."""
        return compute_metrics(sums, self.meteor_name, self.java)

    @property
    def warnings(self) -> list[str]:
        """What makes these scores unlike those of papers, one line each."""
        lines = []
        if len(self.images) == 1:
            lines.append(
                "CIDEr of 1 image means nothing: its weights are counted on the references of the "
                f"scored images, and with one image all are 0; score {MIN_IMAGES} images or more"
            )
        elif len(self.images) < MIN_IMAGES:
            lines.append(
                f"CIDEr of {len(self.images)} images means little: its weights are counted on the "
                f"references of the scored images; score {MIN_IMAGES} images or more"
            )
        if self.meteor_name != FULL_NAME:
            lines.append(
                "METEOR without its paraphrase table is lower than the METEOR of papers: "
                + way_to_table()
            )
        return lines

    def as_dict(self) -> dict[str, object]:
        """Return everything but the images and statistics, ready for JSON."""
        return {
            **self.metrics,
            "intervals": self.intervals,
            "diversity": asdict(self.diversity),
            "people": asdict(self.reference_diversity),
            "signature": self.signature,
            "warnings": self.warnings,
        }

    def table(self) -> str:
        """Return a text table: metrics and intervals times 100, diversity, and the signature."""
        rows = metric_rows(self.metrics, self.intervals)
        rows += ["", f"{'':<26}{'captions':>10}{'references':>12}"]
        references = self.reference_diversity.formatted
        for name, value in self.diversity.formatted.items():
            rows.append(f"{name:<26}{value:>10}{references[name]:>12}")
        notes = [f"warning: {line}" for line in self.warnings]
        return "\n".join([*rows, "", *notes, self.signature])


class Scorer:
    """Scores captions against one set of references, which are tokenized and counted once."""

    def __init__(
        self,
        references: Mapping[ImageId, Sequence[str]],
        *,
        subset_of: int | None = None,
        training_captions: Iterable[str] | None = None,
        paraphrases: bool = True,
        java: Sequence[JavaMetricName] = (),
    ) -> None:
        """Tokenize the references and count their n-grams.

        Args:
            references: the raw references of each image. To score some images only, pass the
                references of these images, because CIDEr depends on the set.
            subset_of: the images of the whole set, for the signature; None: `references` is whole.
            training_captions: the raw captions of the training data, to count unseen captions.
            paraphrases: use METEOR's paraphrase table if it is installed: see `Meteor`.
            java: the metrics to compute with Java, in addition to the others.

        Raises:
            UsageError: the set is empty, an image has no reference, or a metric cannot run.
        """
        if not references:
            raise UsageError("there are no reference captions: pass annotations that have some")
        if missing := [repr(image) for image, captions in references.items() if not captions]:
            raise UsageError(
                f"{summarize(missing, 'image')} without a reference caption: leave these images out"
            )
        tokens = [[tokenize(caption) for caption in captions] for captions in references.values()]
        ngrams, meteor_metric = ReferenceNgrams(tokens), Meteor(tokens, paraphrases=paraphrases)
        java_metrics = (JAVA_METRICS[name](tokens) for name in java)
        self._images, self._java = list(references), tuple(java)
        self._averaged = RougeL(tokens), CiderD(ngrams), Cider(ngrams)
        self._summed = Bleu(tokens), meteor_metric, *java_metrics
        self._training = (
            None
            if training_captions is None
            else {tuple(tokenize(caption)) for caption in training_captions}
        )
        self._reference_diversity = measure_diversity(
            [captions[0] for captions in tokens], self._training
        )
        self.meteor_name = meteor_metric.name
        self._signature = build_signature(
            references,
            set_size=subset_of or len(references),
            meteor_stages=meteor_metric.stages,
            java=java,
        )

    def score(self, captions: Mapping[ImageId, str]) -> Scores:
        """Return the scores of one raw caption for each image.

        Raises:
            UsageError: an image has no caption, or a caption belongs to an unknown image.
        """
        check_images(self._images, captions)
        candidates = [tokenize(captions[image]) for image in self._images]
        averaged = (metric.score(candidates)[1] for metric in self._averaged)
        summed = (metric.statistics(candidates) for metric in self._summed)
        return Scores(
            images=self._images,
            statistics=np.column_stack([np.ones(len(candidates)), *averaged, *summed]),
            java=self._java,
            meteor_name=self.meteor_name,
            diversity=measure_diversity(candidates, self._training),
            reference_diversity=self._reference_diversity,
            signature=self._signature,
        )


def compute_metrics(
    sums: NDArray[np.float64], meteor_name: str, java: Sequence[JavaMetricName] = ()
) -> dict[str, NDArray[np.float64]]:
    """Return each metric (S,) of S samples of images, from (C, S) sums over the images of each.

    The columns are: 1 for each image; ROUGE-L, CIDEr-D and CIDEr; ten of `Bleu.statistics`; six of
    `Meteor.statistics`; then, in the order of `java`, six for METEOR_java and one for SPICE.
    `meteor_name` is the name of METEOR in the result: see `Meteor.name`.
    """
    images, rouge, cider_d, cider, *columns = sums
    remaining = iter(columns)
    bleus = bleu(list(islice(remaining, 10)))
    metrics = {f"Bleu_{n}": score for n, score in enumerate(bleus, start=1)}
    metrics[meteor_name] = meteor(list(islice(remaining, 6)))
    totals = {"ROUGE_L": rouge, "CIDEr": cider_d, "CIDEr_plain": cider}
    for name in java:
        if name == "METEOR_java":
            metrics[name] = meteor(list(islice(remaining, 6)))
        else:
            totals[name] = next(remaining)
    return metrics | {name: total / images for name, total in totals.items()}


def resample_sums(statistics: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the sums of each column over each resample: (images, C) -> (C, RESAMPLES).

    A resample draws as many images as there are, with replacement (bootstrap, Efron 1979).
    """
    rng = np.random.default_rng(_SEED)
    images = len(statistics)
    draws = (rng.integers(images, size=images) for _ in range(RESAMPLES))  # (images,) each
    # A product with the counts of the draws is faster than a sum over the drawn rows.
    return np.stack([np.bincount(draw, minlength=images) @ statistics for draw in draws], axis=1)


def metric_rows(
    metrics: Mapping[str, float], intervals: Mapping[str, tuple[float, float]]
) -> list[str]:
    """Return the lines of a table of metrics and their intervals, times 100."""
    width = label_width(metrics)
    rows = [f"{'metric':<{width}}{'score':>8}   95 % interval"]
    for name, score in metrics.items():
        low, high = (100 * bound for bound in intervals[name])
        rows.append(f"{METRIC_LABELS[name]:<{width}}{100 * score:>8.2f}   {low:.2f} to {high:.2f}")
    return rows


def label_width(metrics: Iterable[str]) -> int:
    """Return the width of a column of the labels of metrics."""
    return max([12, *(len(METRIC_LABELS[name]) for name in metrics)])


def percentile_interval(samples: NDArray[np.float64]) -> tuple[float, float]:
    """Return the percentile interval: the bounds of the middle 95 % of the samples (RESAMPLES,)."""
    quantiles = (1 - CONFIDENCE_LEVEL) / 2, (1 + CONFIDENCE_LEVEL) / 2
    low, high = np.quantile(samples, quantiles).tolist()
    return low, high


def check_images(
    annotated: Collection[ImageId], captions: Mapping[ImageId, str], *, allow_partial: bool = False
) -> None:
    """Raise an error if the captions do not belong to the annotated images.

    Raises:
        UsageError: an annotated image has no caption, or a caption belongs to an unknown image.
            With `allow_partial`, some images may lack one, but not all.
    """
    known = set(annotated)
    missing = [repr(image) for image in annotated if image not in captions]
    unknown = [repr(image) for image in captions if image not in known]
    problems = []
    if missing and not (allow_partial and captions):
        problems.append(f"no caption for {summarize(missing, 'image')}")
    if unknown:
        problems.append(f"{summarize(unknown, 'image')} not in the annotations")
    if problems:
        hint = _hint(missing, unknown) if captions else "caption them"
        raise UsageError(f"the captions do not fit the annotations: {', '.join(problems)}: {hint}")


def _hint(missing: list[str], unknown: list[str]) -> str:
    """Return how to make captions fit the annotations: see `check_images`."""
    if {image.strip("'") for image in missing} & {image.strip("'") for image in unknown}:
        return "image ids are numbers on one side and text on the other, use one type"
    if unknown:
        return "caption the annotated images, or pass the annotations and the split of these images"
    return f"caption them too, or set {parameter('allow_partial')} to use a subset"
