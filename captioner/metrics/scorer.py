"""From caption strings to the figures of a paper: COCO's metrics, how sure they are, and how exactly they were made."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from captioner.captions import ImageId
from captioner.errors import UsageError, listed
from captioner.metrics.bleu import Bleu, bleu
from captioner.metrics.bootstrap import interval, resample
from captioner.metrics.cider import Cider, CiderD, ReferenceNgrams
from captioner.metrics.diversity import Diversity, measure_diversity
from captioner.metrics.java import JAVA, JavaName
from captioner.metrics.meteor import Meteor, meteor
from captioner.metrics.rouge import RougeL
from captioner.metrics.signature import sign
from captioner.text.tokenizer import tokenize

NAMES = {
    **{f"Bleu_{n}": f"BLEU-{n}" for n in range(1, 5)},
    **{"METEOR": "METEOR", "ROUGE_L": "ROUGE-L", "CIDEr": "CIDEr-D", "CIDEr_plain": "CIDEr"},
    **{"METEOR_java": "METEOR, Java", "SPICE": "SPICE"},
}
"""How people write the metrics, which have COCO's names in JSON."""


@dataclass(frozen=True, eq=False)
class Scores:
    """The metrics of one set of captions, and what a reader must know to compare them with others.

    Metrics have COCO's names: "CIDEr" is CIDEr-D, and "CIDEr_plain" is CIDEr. All are 0 to 1, those two 0 to 10.
    """

    images: Sequence[ImageId]
    statistics: NDArray[
        np.float64
    ]  # (images, columns): what the metrics counted of each image, see `figures_of`
    java: Sequence[JavaName]  # the metrics that Java computed
    diversity: Diversity
    people: Diversity  # the same of people: of the first reference of each image
    signature: str

    @cached_property
    def figures(self) -> dict[str, float]:
        """Each metric, unrounded."""
        sums = self.statistics.sum(axis=0)
        return {
            name: samples.item() for name, samples in figures_of(sums[:, None], self.java).items()
        }

    @cached_property
    def per_image(self) -> dict[str, dict[ImageId, float]]:
        """Each metric of each image alone; BLEU is then that of a sentence."""
        alone = figures_of(self.statistics.T, self.java)
        return {
            name: dict(zip(self.images, scores.tolist(), strict=True))
            for name, scores in alone.items()
        }

    @cached_property
    def intervals(self) -> dict[str, tuple[float, float]]:
        """The 95 % bootstrap interval of each metric. How rare CIDEr finds an n-gram is not drawn anew each time."""
        return {
            name: interval(samples)
            for name, samples in figures_of(resample(self.statistics), self.java).items()
        }

    def as_dict(self) -> dict[str, object]:
        """Give everything but the images, as JSON holds it."""
        others = {
            "intervals": self.intervals,
            "diversity": asdict(self.diversity),
            "people": asdict(self.people),
        }
        return {**self.figures, **others, "signature": self.signature}

    def table(self) -> str:
        """Give figures and intervals times 100, as papers print them, then diversity, then the signature."""
        rows = [f"{'metric':<12}{'score':>8}   95 % interval"]
        for name, score in self.figures.items():
            low, high = self.intervals[name]
            rows.append(
                f"{NAMES[name]:<12}{100 * score:>8.2f}   {100 * low:.2f} to {100 * high:.2f}"
            )
        rows += ["", f"{'':<26}{'captions':>10}{'people':>10}"]
        mine, people = self.diversity.shown, self.people.shown
        rows += [f"{name:<26}{mine[name]:>10}{people[name]:>10}" for name in mine]
        return "\n".join([*rows, "", self.signature])


class Scorer:
    """Scores results against one set of references, which are tokenised and counted once."""

    def __init__(
        self,
        references: Mapping[ImageId, Sequence[str]],
        *,
        subset_of: int | None = None,
        seen: Iterable[str] | None = None,
        java: Sequence[JavaName] = (),
    ) -> None:
        """Take the raw reference captions of each image, and raw training captions, to tell which results are new.

        To score some images only, pass the references of those, as CIDEr depends on the set, and as `subset_of` how
        many images there are in all: the signature says so. `java` names metrics to be computed by Java besides.

        Raises UsageError where an image, or the set, has no reference, or what a metric of Java needs is missing.
        """
        if not references:
            raise UsageError(
                "there are no reference captions to compare with; name an annotation file that has some"
            )
        if bare := [repr(image) for image, captions in references.items() if not captions]:
            raise UsageError(
                f"{listed(bare, 'image')} without a reference caption; leave them out of the evaluation"
            )
        words = [[tokenize(caption) for caption in captions] for captions in references.values()]
        self._images = list(references)
        self._bleu, self._meteor, self._rouge = Bleu(words), Meteor(words), RougeL(words)
        ngrams = ReferenceNgrams(words)
        self._cider, self._plain_cider = CiderD(ngrams), Cider(ngrams)
        self._java = {name: JAVA[name](words) for name in java}
        self._seen = None if seen is None else {tuple(tokenize(caption)) for caption in seen}
        self._people = measure_diversity([captions[0] for captions in words], self._seen)
        self._signature = sign(
            references,
            of=subset_of or len(references),
            meteor_stages=self._meteor.stages,
            java=java,
        )

    def score(self, results: Mapping[ImageId, str]) -> Scores:
        """Score one raw caption for every image; raises UsageError where images are missing or unknown."""
        check_images(self._images, results)
        candidates = [tokenize(results[image]) for image in self._images]
        statistics = np.column_stack(
            [
                np.ones(len(candidates)),
                *(
                    metric.score(candidates)[1]
                    for metric in (self._rouge, self._cider, self._plain_cider)
                ),
                self._bleu.statistics(candidates),
                self._meteor.statistics(candidates),
                *(metric.statistics(candidates) for metric in self._java.values()),
            ]
        )
        diversity = measure_diversity(candidates, self._seen)
        return Scores(
            self._images, statistics, tuple(self._java), diversity, self._people, self._signature
        )


def figures_of(
    sums: NDArray[np.float64], java: Sequence[JavaName] = ()
) -> dict[str, NDArray[np.float64]]:
    """Give each metric of many samples of images, from their sums of `Scores.statistics`: (columns, samples).

    The columns are the number of images; ROUGE-L, CIDEr-D and CIDEr; ten counts of BLEU and six of METEOR; and for the
    metrics of Java six of METEOR, one of SPICE.
    """
    images, rouge, cider, plain_cider, *counts = sums
    scores = {f"Bleu_{n}": score for n, score in enumerate(bleu(counts[:10]), start=1)}
    scores["METEOR"] = meteor(counts[10:16])
    means = {"ROUGE_L": rouge, "CIDEr": cider, "CIDEr_plain": plain_cider}
    rest = iter(counts[16:])
    for name in java:
        if name == "METEOR_java":
            scores[name] = meteor(list(islice(rest, 6)))
        else:
            means[name] = next(rest)
    return scores | {name: total / images for name, total in means.items()}


def check_images(
    known: Collection[ImageId], results: Mapping[ImageId, str], *, allow_partial: bool = False
) -> None:
    """Refuse results that are not of the annotated images, by name; or only unknown images, where `allow_partial`.

    Raises UsageError, also where there is no result at all.
    """
    there = set(known)
    missing = [repr(image) for image in known if image not in results]
    unknown = [repr(image) for image in results if image not in there]
    problems = []
    if missing and not (allow_partial and results):
        problems.append(f"no caption for {listed(missing, 'image')}")
    if unknown:
        problems.append(f"{listed(unknown, 'image')} not in the annotations")
    if not problems:
        return
    if {image.strip("'") for image in missing} & {image.strip("'") for image in unknown}:
        way_out = "image ids are numbers on one side and text on the other, write them alike"
    elif unknown:
        way_out = "caption the annotated images, or name the annotations and the split of these"
    else:
        way_out = "caption them" + (
            " too, or allow a subset with --allow-partial" if results else ""
        )
    raise UsageError(f"the results do not fit the annotations: {', '.join(problems)}; {way_out}")
