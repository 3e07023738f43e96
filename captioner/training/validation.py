"""Validation: losses on the references of the dev split, and metrics of generated captions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from captioner.console import track
from captioner.data.batching import Loader
from captioner.data.datasets import Example
from captioner.decoding.search import Search
from captioner.devices import PrecisionName, autocast
from captioner.distributed import Ranks
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
    scores: Scores
    captions: dict[int | str, str]  # image id -> generated caption

    @property
    def metrics(self) -> dict[str, float]:
        """The numbers for the log of the run."""
        return {
            "dev_loss": self.loss,
            "free_running_loss": self.free_running_loss,
            **self.scores.metrics,
        }

    def __str__(self) -> str:
        """Return the main numbers in one line."""
        bleu, cider = self.scores.metrics["Bleu_4"], self.scores.metrics["CIDEr"]
        return (
            f"dev loss {self.loss:.3f} (free running {self.free_running_loss:.3f})  "
            f"BLEU-4 {100 * bleu:.1f}  CIDEr-D {100 * cider:.1f}"
        )


class Validator:
    """Captions the dev split and scores the captions. Each rank captions a share of the images."""

    def __init__(
        self,
        model: EncoderDecoder,
        dev: Sequence[Example],
        *,
        search: Search,
        vocabulary: Vocabulary,
        ranks: Ranks,
        precision: PrecisionName,
    ) -> None:
        self.model, self.search, self.vocabulary = model, search, vocabulary
        self.ranks, self.precision = ranks, precision
        self.image_ids = [example.image_id for example in ranks.shard(dev)]
        self.scorer = Scorer({example.image_id: example.captions for example in dev})

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
        all_captions: dict[int | str, str] = {}
        for shard in self.ranks.gather(dict(zip(self.image_ids, captions, strict=True))):
            all_captions |= shard
        scores = self.scorer.score(all_captions)
        return Validation(self._mean(forced), self._mean(free), scores, all_captions)

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
