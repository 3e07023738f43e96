"""Validation: losses on the references of the dev split, and metrics of generated captions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import accumulate
from statistics import fmean
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from captioner.captions import ImageId
from captioner.config.schema import MEAN
from captioner.data.batching import Loader
from captioner.data.parallel import Pair
from captioner.data.splits import ExampleSet
from captioner.decoding.search import Search
from captioner.devices import PrecisionName, autocast
from captioner.distributed import Ranks
from captioner.errors import UsageError
from captioner.metrics.scorer import Scorer
from captioner.metrics.translation import TranslationScorer
from captioner.models.encoder_decoder import EncoderDecoder
from captioner.progress import track
from captioner.text.tokenizer import BOS, Tokenizer, Vocabulary
from captioner.training.losses import LossSum
from captioner.types import Batch, State

LengthLimits = Callable[[Tensor], Tensor]
"""Sources of a batch -> (B,) the most tokens that the model generates for each of them."""

_LABELS = {"Bleu_4": "BLEU-4", "CIDEr": "CIDEr-D", "exact": "exact"}  # of the main metrics


class _Scores(Protocol):
    @property
    def metrics(self) -> dict[str, float]: ...


class _Scorer(Protocol):
    def score(self, captions: Mapping[ImageId, str], /) -> _Scores: ...


@dataclass(frozen=True)
class Validation:
    """The results of a validation."""

    loss: float  # nats per token of the references, with teacher forcing
    free_running_loss: float  # the same, but the decoder reads its own predictions
    scores: _Scores  # over the examples of all sources
    source_scores: dict[str, _Scores]  # of each source alone, if there are several
    captions: list[str]  # generated for each example, in the order of dev

    def score(self, select_by: str) -> float:
        """Return the score of a source of dev, or for "mean" the mean over the sources.

        It is CIDEr-D for captions of images, and BLEU-4 for text.
        """
        metric = "CIDEr" if "CIDEr" in self.scores.metrics else "Bleu_4"
        if not self.source_scores:
            return self.scores.metrics[metric]
        scores = {name: one.metrics[metric] for name, one in self.source_scores.items()}
        return fmean(scores.values()) if select_by == MEAN else scores[select_by]

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


def _main_scores(scores: _Scores) -> str:
    metrics = scores.metrics
    shown = (
        f"{label} {100 * metrics[name]:.1f}" for name, label in _LABELS.items() if name in metrics
    )
    return "  ".join(shown)


class _Source(NamedTuple):
    """A source of dev."""

    positions: range  # of its examples in dev
    scorer: _Scorer


class Validator:
    """Captions dev in one pass and scores each of its sources, and all of their examples.

    Each rank captions a share of the examples of each source. `select_by` is the source whose score
    chooses the best model, or "mean": see `Validation.score`.

    Raises:
        UsageError: dev has no source with the name `select_by`.
    """

    def __init__(
        self,
        model: EncoderDecoder,
        dev: Sequence[ExampleSet],
        *,
        select_by: str,
        search: Search,
        limits: LengthLimits,
        vocabulary: Vocabulary,
        ranks: Ranks,
        precision: PrecisionName,
    ) -> None:
        self.model, self.vocabulary = model, vocabulary
        self.search, self.limits = search, limits
        self.ranks, self.precision = ranks, precision
        names = [source.name for source in dev]
        if select_by not in (MEAN, *names):
            raise UsageError(
                f"training.select_by is {select_by!r}, but dev has {', '.join(names)}: choose one "
                f"of these or {MEAN}"
            )
        # Image ids are unique in a source only, so examples are known by their position in dev.
        references = [example.captions for source in dev for example in source.examples]
        ends = list(accumulate(len(source.examples) for source in dev))
        positions = [
            range(end - len(each.examples), end) for each, end in zip(dev, ends, strict=True)
        ]
        self.positions = [place for source in positions for place in ranks.shard(source)]
        is_text = isinstance(dev[0].examples[0], Pair)
        # METEOR has no paraphrases here: all ranks would read their table, and the log of a run
        # would depend on whether it is installed.
        make_scorer = (
            partial(_text_scorer, vocabulary.tokenizer)
            if is_text
            else partial(Scorer, paraphrases=False)
        )
        self.scorer: _Scorer = make_scorer(dict(enumerate(references)))
        self.sources = {
            source.name: _Source(
                within, make_scorer({place: references[place] for place in within})
            )
            for source, within in zip(dev, positions, strict=True)
            if len(dev) > 1  # the only source has the scores of all images
        }

    @torch.inference_mode()
    def __call__(self, loader: Loader, *, stop: Callable[[], bool]) -> Validation | None:
        """Return the results of all ranks, or None if `stop` returned True on any of them.

        `loader` reads this rank's share of dev in order.
        """
        self.model.eval()
        device = self.ranks.device
        zero = torch.zeros((), device=device)
        forced = free = LossSum(zero, zero.long())
        captions: list[str] = []
        for batch in track(loader, total=len(loader), doing="validation", unit="batches"):
            if stop():
                break
            batch = batch.to(device)
            with autocast(device, self.precision):
                # each source is encoded once, for both losses and the search
                state = self.model.init_state(batch.source)
                log_probs = self.model.log_probs(batch, state)  # (M,)
                forced += LossSum(-log_probs.sum(), batch.target_mask.sum())
                free += free_running_loss(self.model, batch, state)
                found = self.search(state, (), self.limits(batch.source))
            words = [self.vocabulary.decode(ranked[0].token_ids) for ranked in found]
            captions += [self.vocabulary.tokenizer.detokenize(each) for each in words]
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


def _text_scorer(
    tokenizer: Tokenizer, references: Mapping[ImageId, Sequence[str]]
) -> TranslationScorer:
    """Return the scorer of texts: BLEU of their words in lower case, or of their characters."""
    from captioner.text.multilingual import CharacterTokenizer, WordTokenizer

    of_characters = isinstance(tokenizer, CharacterTokenizer)
    words = tokenizer if of_characters else WordTokenizer(fold_case=True)
    return TranslationScorer(references, words.tokenize)


def free_running_loss(model: EncoderDecoder, batch: Batch, state: State) -> LossSum:
    """Return the cross-entropy of the references when the decoder reads its own predictions.

    The predictions depend on the source only. One row for each source therefore serves all of its
    captions.

    Args:
        model: in evaluation mode.
        batch: its captions are the references.
        state: initial state of the sources, (B, ...).
    """
    token_ids = batch.tokens.new_full((len(batch.source),), BOS)  # (B,)
    total = torch.zeros((), device=token_ids.device)
    for t in range(batch.targets.shape[1]):
        log_probs, state = model.step(token_ids, state)  # (B, V)
        real = batch.target_mask[:, t]  # (N,) captions that have a token at step t
        total -= log_probs[batch.source_index[real], batch.targets[real, t]].sum()
        token_ids = log_probs.argmax(dim=1)
    return LossSum(total, batch.target_mask.sum())
