"""How good the model is on images it has not learnt from, in its own words: no teacher forcing but for the loss."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from captioner.config.schema import PrecisionName
from captioner.console import track
from captioner.data.datasets import Example
from captioner.data.loading import Loader
from captioner.devices import autocast
from captioner.distributed import Ranks
from captioner.metrics.scorer import Scorer, Scores
from captioner.models.encoder_decoder import EncoderDecoder
from captioner.text.tokenizer import detokenize
from captioner.text.vocabulary import BOS, Vocabulary
from captioner.training.losses import LossSum
from captioner.training.objectives import TeacherForcing
from captioner.types import Batch, Hypothesis, State

Search = Callable[[State], list[Hypothesis]]
"""From the states before the first word to the best caption of each image."""


@dataclass(frozen=True)
class Validation:
    """What a validation found."""

    loss: float  # of the true words after true words
    free_running_loss: (
        float  # of the true words after the model's own: the gap is what teacher forcing hides
    )
    scores: Scores
    captions: dict[int | str, str]

    @property
    def figures(self) -> dict[str, float]:
        """What the log keeps."""
        return {
            "dev_loss": self.loss,
            "free_running_loss": self.free_running_loss,
            **self.scores.figures,
        }

    def __str__(self) -> str:
        """Say it in a line."""
        losses = f"dev loss {self.loss:.3f} (free running {self.free_running_loss:.3f})"
        figures = self.scores.figures
        return (
            f"{losses}  BLEU-4 {100 * figures['Bleu_4']:.1f}  CIDEr-D {100 * figures['CIDEr']:.1f}"
        )


class Validator:
    """Caption the images of dev and score what was said; each rank captions its share, and all are scored together."""

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
        self.image_ids = [example.image_id for example in ranks.share(dev)]
        self.scorer = Scorer({example.image_id: example.captions for example in dev})

    @torch.inference_mode()
    def __call__(self, loader: Loader, *, stop: Callable[[], bool]) -> Validation | None:
        """Validate on this rank's share of dev, as `loader` reads it, in order; give it up if any rank says `stop`."""
        self.model.eval()
        objective, device = TeacherForcing(self.model).eval(), self.ranks.device
        forced = free = LossSum(
            torch.zeros((), device=device), torch.zeros((), dtype=torch.int64, device=device)
        )
        captions: list[str] = []
        for batch in track(loader, total=len(loader), doing="validation", unit="batches"):
            if stop():
                break
            batch = batch.to(device)
            with autocast(device, self.precision):
                memory = self.model.encode(batch.source)
                forced += objective(
                    batch._replace(source=memory.grid)
                )  # the trunk has done its work
                state = self.model.decoder.init_state(memory)
                free += free_running(self.model, batch, state)
                found = self.search(state)
                captions += [detokenize(self.vocabulary.decode(best.token_ids)) for best in found]
        self.model.train()
        if self.ranks.any(stop()):
            return None
        everything: dict[int | str, str] = {}
        for share in self.ranks.gather(dict(zip(self.image_ids, captions, strict=True))):
            everything.update(share)
        return Validation(
            self._mean(forced), self._mean(free), self.scorer.score(everything), everything
        )

    def _mean(self, loss: LossSum) -> float:
        return LossSum(self.ranks.sum(loss.total), self.ranks.sum(loss.count)).mean


def free_running(model: EncoderDecoder, batch: Batch, state: State) -> LossSum:
    """Cross-entropy of the true words when the decoder reads its own likeliest words, from the images' `state` on.

    What it reads hangs on the image alone, so each image is read once for all its captions.
    """
    words = batch.tokens.new_full((len(batch.source),), BOS)
    total = torch.zeros((), device=words.device)
    for place in range(batch.targets.shape[1]):
        log_probs, state = model.step(words, state)  # (B, V)
        real = batch.target_mask[:, place]
        total -= log_probs[batch.source_index[real], batch.targets[real, place]].sum()
        words = log_probs.argmax(dim=1)
    return LossSum(total, batch.target_mask.sum())
