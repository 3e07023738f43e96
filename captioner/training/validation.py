"""Validation: losses on the references of the dev split, and metrics of generated captions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from statistics import fmean
from typing import NamedTuple

import torch

from captioner.captions import ImageId
from captioner.config.schema import MEAN
from captioner.console import track
from captioner.data.batching import Loader
from captioner.data.splits import ImageSet
from captioner.decoding.search import Search
from captioner.devices import PrecisionName, autocast
from captioner.distributed import Ranks
from captioner.errors import UsageError
from captioner.metrics.scorer import Scorer, Scores
from captioner.models.encoder_decoder import EncoderDecoder
from captioner.text.tokenizer import BOS, Vocabulary, detokenize
from captioner.training.losses import LossSum
from captioner.training.objectives import TeacherForcing
from captioner.types import Batch, State


@dataclass(frozen=True)
class Validation:
    """The results of a validation."""

    loss: float  # nats per token of the references, with teacher forcing
    free_running_loss: float  # the same, but the decoder reads its own predictions
    scores: Scores  # over the images of all sources
    source_scores: dict[str, Scores]  # of each source alone, if there are several
    captions: list[str]  # generated for each image, in the order of dev

    def score(self, select_by: str) -> float:
        """Return the CIDEr-D of a source of dev, or for "mean" the mean over the sources."""
        if not self.source_scores:
            return self.scores.metrics["CIDEr"]
        ciders = {name: one.metrics["CIDEr"] for name, one in self.source_scores.items()}
        return fmean(ciders.values()) if select_by == MEAN else ciders[select_by]

    @property
    def metrics(self) -> dict[str, float]:
        """The numbers for the log of the run; those of a source are "CIDEr/NAME", and so on."""
        return {
            "dev_loss": self.loss,
            "free_running_loss": self.free_running_loss,
            **self.scores.metrics,
            **{
                f"{metric}/{name}": value
                for name, scores in self.source_scores.items()
                for metric, value in scores.metrics.items()
            },
        }

    def __str__(self) -> str:
        """Return the main numbers in one line."""
        apart = "".join(
            f"  {name}: {_main_scores(scores)}" for name, scores in self.source_scores.items()
        )
        return (
            f"dev loss {self.loss:.3f} (free running {self.free_running_loss:.3f})  "
            f"{_main_scores(self.scores)}{apart}"
        )


def _main_scores(scores: Scores) -> str:
    bleu, cider = scores.metrics["Bleu_4"], scores.metrics["CIDEr"]
    return f"BLEU-4 {100 * bleu:.1f}  CIDEr-D {100 * cider:.1f}"


class _Source(NamedTuple):
    """A source of dev."""

    positions: range  # of its images in dev
    scorer: Scorer


class Validator:
    """Captions dev in one pass and scores each of its sources, and all of their images.

    Each rank captions a share of the images of each source. `select_by` is the source whose CIDEr-D
    chooses the best model, or "mean".

    Raises:
        UsageError: dev has no source with the name `select_by`.
    """

    def __init__(
        self,
        model: EncoderDecoder,
        dev: Sequence[ImageSet],
        *,
        select_by: str,
        search: Search,
        vocabulary: Vocabulary,
        ranks: Ranks,
        precision: PrecisionName,
    ) -> None:
        self.model, self.search, self.vocabulary = model, search, vocabulary
        self.ranks, self.precision = ranks, precision
        names = [source.name for source in dev]
        if select_by not in (MEAN, *names):
            raise UsageError(
                f"training.select_by is {select_by!r}, but dev has {', '.join(names)}: choose one "
                f"of these or {MEAN}"
            )
        # Image ids are unique in a source only, so images are known by their position in dev.
        references = [example.captions for source in dev for example in source.examples]
        ends = list(accumulate(len(source.examples) for source in dev))
        positions = [
            range(end - len(each.examples), end) for each, end in zip(dev, ends, strict=True)
        ]
        self.positions = [place for source in positions for place in ranks.shard(source)]
        self.scorer = Scorer(dict(enumerate(references)))
        self.sources = {
            source.name: _Source(within, Scorer({place: references[place] for place in within}))
            for source, within in zip(dev, positions, strict=True)
            if len(dev) > 1  # the only source has the scores of all images
        }

    @torch.inference_mode()
    def __call__(self, loader: Loader, *, stop: Callable[[], bool]) -> Validation | None:
        """Return the results of all ranks, or None if `stop` returned True on any of them.

        `loader` reads this rank's share of dev in order.
        """
        self.model.eval()
        objective, device = TeacherForcing(self.model).eval(), self.ranks.device
        zero = torch.zeros((), device=device)
        forced = free = LossSum(zero, zero.long())
        captions: list[str] = []
        for batch in track(loader, total=len(loader), doing="validation", unit="batches"):
            if stop():
                break
            batch = batch.to(device)
            with autocast(device, self.precision):
                memory = self.model.encode(batch.source)
                # The objective gets the grid as cached features: the CNN runs once for each image.
                forced += objective(batch._replace(source=memory.grid)).loss
                state = self.model.decoder.init_state(memory)
                free += free_running_loss(self.model, batch, state)
                best = [ranked[0].token_ids for ranked in self.search(state, ())]
                captions += [detokenize(self.vocabulary.decode(ids)) for ids in best]
        self.model.train()
        return None if self.ranks.any(stop()) else self._results(forced, free, captions)

    def _results(self, forced: LossSum, free: LossSum, captions: list[str]) -> Validation:
        by_position: dict[ImageId, str] = {}
        for shard in self.ranks.gather(dict(zip(self.positions, captions, strict=True))):
            by_position |= shard
        scores = self.scorer.score(by_position)
        apart = {
            name: scorer.score({place: by_position[place] for place in within})
            for name, (within, scorer) in self.sources.items()
        }
        in_order = [by_position[place] for place in range(len(by_position))]
        return Validation(self._mean(forced), self._mean(free), scores, apart, in_order)

    def _mean(self, loss: LossSum) -> float:
        return LossSum(self.ranks.sum(loss.total), self.ranks.sum(loss.count)).mean


def free_running_loss(model: EncoderDecoder, batch: Batch, state: State) -> LossSum:
    """Return the cross-entropy of the references when the decoder reads its own predictions.

    The predictions depend on the image only. One row for each image therefore serves all of its
    captions.

    Args:
        model: in evaluation mode.
        batch: its captions are the references.
        state: initial state of the images, (B, ...).
    """
    token_ids = batch.tokens.new_full((len(batch.source),), BOS)  # (B,)
    total = torch.zeros((), device=token_ids.device)
    for t in range(batch.targets.shape[1]):
        log_probs, state = model.step(token_ids, state)  # (B, V)
        real = batch.target_mask[:, t]  # (N,) captions that have a token at step t
        total -= log_probs[batch.source_index[real], batch.targets[real, t]].sum()
        token_ids = log_probs.argmax(dim=1)
    return LossSum(total, batch.target_mask.sum())
