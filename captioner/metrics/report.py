"""From caption strings to the figures of a paper: COCO's metrics with a line that says exactly how they were made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

from captioner.errors import UsageError
from captioner.metrics.bleu import BLEU_VERSION, Bleu
from captioner.metrics.cider import CIDER_VERSION, CiderD
from captioner.metrics.results import ImageId, listed
from captioner.text.tokenizer import TOKENIZER_VERSION, tokenize


@dataclass(frozen=True)
class Scores:
    """The metrics of one set of captions, and what a reader must know to compare them with others."""

    bleu: tuple[float, float, float, float]  # BLEU-1 to 4, 0 to 1
    cider: float  # CIDEr-D as COCO gives it, 0 to 10
    images: int
    references: int  # of all images together

    @property
    def figures(self) -> dict[str, float]:
        """The metrics under COCO's names, unrounded."""
        return {**{f"Bleu_{n}": value for n, value in enumerate(self.bleu, start=1)}, "CIDEr": self.cider}

    @property
    def signature(self) -> str:
        """One line that names every choice behind the figures: equal signatures, comparable figures."""
        parts = {
            "images": self.images,
            "references": self.references,
            "tokenizer": TOKENIZER_VERSION,
            "Bleu": BLEU_VERSION,
            "CIDEr-D": CIDER_VERSION,
            "captioner": _own_version(),
        }
        return "|".join(f"{name}:{value}" for name, value in parts.items())

    def as_dict(self) -> dict[str, float | str]:
        """Give the figures together with the signature, as JSON holds them."""
        return {**self.figures, "signature": self.signature}

    def table(self) -> str:
        """Give the figures times 100, as papers print them, and below them the signature."""
        rows = [f"{name:<8}{100 * value:>7.2f}" for name, value in self.figures.items()]
        return "\n".join([*rows, self.signature])


class Scorer:
    """Scores results against one set of references, which are tokenised and counted once."""

    def __init__(self, references: Mapping[ImageId, Sequence[str]]) -> None:
        """Take the raw reference captions of each image. Raises UsageError where an image, or the set, has none.

        To score some images only, pass the references of those: CIDEr-D depends on the set.
        """
        if not references:
            raise UsageError("there are no reference captions to compare with; name an annotation file that has some")
        if bare := [repr(image) for image, captions in references.items() if not captions]:
            raise UsageError(f"{listed(bare, 'image')} without a reference caption; leave them out of the evaluation")
        words = [[tokenize(caption) for caption in captions] for captions in references.values()]
        self._images = list(references)
        self._references = sum(map(len, words))
        self._bleu = Bleu(words)
        self._cider = CiderD(words)

    def score(self, results: Mapping[ImageId, str]) -> Scores:
        """Score one raw caption for every image; raises UsageError where images are missing or unknown."""
        self._check_images(results)
        candidates = [tokenize(results[image]) for image in self._images]
        bleu = self._bleu.score(candidates)
        cider, _ = self._cider.score(candidates)
        return Scores(bleu, cider, images=len(self._images), references=self._references)

    def _check_images(self, results: Mapping[ImageId, str]) -> None:
        known = set(self._images)
        missing = [repr(image) for image in self._images if image not in results]
        unknown = [repr(image) for image in results if image not in known]
        problems = []
        if missing:
            problems.append(f"no caption for {listed(missing, 'image')}")
        if unknown:
            problems.append(f"{listed(unknown, 'image')} not in the annotations")
        if not problems:
            return
        if {image.strip("'") for image in missing} & {image.strip("'") for image in unknown}:
            way_out = "image ids are numbers on one side and text on the other, write them alike"
        else:
            way_out = "caption exactly the annotated images, or evaluate with the references of those you have"
        raise UsageError(f"the results do not fit the annotations: {', '.join(problems)}; {way_out}")


def _own_version() -> str:
    try:
        return version("captioner")
    except PackageNotFoundError:  # run from a checkout that is not installed
        return "uninstalled"
