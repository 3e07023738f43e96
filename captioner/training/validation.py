"""How good the model is on images it has not learnt from, in its own words: no teacher forcing but for the loss."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch

from captioner.config import PrecisionName
from captioner.devices import autocast
from captioner.metrics.report import Scorer, Scores
from captioner.text.tokenizer import detokenize
from captioner.text.vocabulary import Vocabulary
from captioner.training.distributed import Ranks
from captioner.training.losses import LossSum
from captioner.training.objectives import TeacherForcing
from captioner.types import Batch, Hypothesis, Memory

Search = Callable[[Memory], list[Hypothesis]]
"""From what was seen to the best caption of each image."""


@dataclass(frozen=True)
class Validation:
    """What a validation found."""

    loss: float
    scores: Scores
    captions: dict[int | str, str]


@torch.inference_mode()
def validate(
    objective: TeacherForcing,
    batches: Iterable[Batch],
    *,
    image_ids: Sequence[int | str],
    search: Search,
    vocabulary: Vocabulary,
    scorer: Scorer,
    ranks: Ranks,
    precision: PrecisionName,
) -> Validation:
    """Caption this rank's share of the images (`image_ids`, in the order of `batches`), and score all together."""
    objective.eval()
    loss = LossSum(torch.zeros((), device=ranks.device), torch.zeros((), dtype=torch.int64, device=ranks.device))
    captions: list[str] = []
    for batch in batches:
        batch = batch.to(ranks.device)
        with autocast(ranks.device, precision):
            memory = objective.model.encode(batch.source)
            loss += objective(batch._replace(source=memory.grid))  # the trunk has done its work
            captions += [detokenize(vocabulary.decode(found.words)) for found in search(memory)]
    objective.train()
    loss = LossSum(ranks.sum(loss.total), ranks.sum(loss.count))
    everything: dict[int | str, str] = {}
    for share in ranks.gather(dict(zip(image_ids, captions, strict=True))):
        everything.update(share)
    return Validation(loss.mean, scorer.score(everything), everything)
