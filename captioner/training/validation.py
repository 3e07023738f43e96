"""How good the model is on images it has not learnt from, in its own words: no teacher forcing but for the loss."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from captioner.config import PrecisionName
from captioner.console import track
from captioner.data.batching import Loader
from captioner.data.datasets import Example
from captioner.devices import autocast
from captioner.metrics.scorer import Scorer, Scores
from captioner.text.tokenizer import detokenize
from captioner.text.vocabulary import Vocabulary
from captioner.training.distributed import Ranks
from captioner.training.losses import LossSum
from captioner.training.objectives import TeacherForcing
from captioner.types import Hypothesis, State

Search = Callable[[State], list[Hypothesis]]
"""From the states before the first word to the best caption of each image."""


@dataclass(frozen=True)
class Validation:
    """What a validation found."""

    loss: float
    scores: Scores
    captions: dict[int | str, str]

    def __str__(self) -> str:
        """Say it in a line."""
        figures = self.scores.figures
        return f"dev loss {self.loss:.3f}  BLEU-4 {100 * figures['Bleu_4']:.1f}  CIDEr-D {100 * figures['CIDEr']:.1f}"


class Validator:
    """Caption the images of dev and score what was said; each rank captions its share, and all are scored together."""

    def __init__(
        self,
        objective: TeacherForcing,
        dev: Sequence[Example],
        *,
        search: Search,
        vocabulary: Vocabulary,
        ranks: Ranks,
        precision: PrecisionName,
    ) -> None:
        self.objective, self.search, self.vocabulary = objective, search, vocabulary
        self.ranks, self.precision = ranks, precision
        self.image_ids = [example.image_id for example in ranks.share(dev)]
        self.scorer = Scorer({example.image_id: example.captions for example in dev})

    @torch.inference_mode()
    def __call__(self, loader: Loader) -> Validation:
        """Validate on this rank's share of dev, as `loader` reads it, in order."""
        self.objective.eval()
        device = self.ranks.device
        loss = LossSum(torch.zeros((), device=device), torch.zeros((), dtype=torch.int64, device=device))
        captions: list[str] = []
        for batch in track(loader, total=len(loader), doing="validation", unit="batches"):
            batch = batch.to(device)
            with autocast(device, self.precision):
                memory = self.objective.model.encode(batch.source)
                loss += self.objective(batch._replace(source=memory.grid))  # the trunk has done its work
                found = self.search(self.objective.model.start(memory))
                captions += [detokenize(self.vocabulary.decode(best.words)) for best in found]
        self.objective.train()
        loss = LossSum(self.ranks.sum(loss.total), self.ranks.sum(loss.count))
        everything: dict[int | str, str] = {}
        for share in self.ranks.gather(dict(zip(self.image_ids, captions, strict=True))):
            everything.update(share)
        return Validation(loss.mean, self.scorer.score(everything), everything)
