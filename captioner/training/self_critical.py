"""Teaching without true words to say: the model draws captions, and learns to draw those that score well more often."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from captioner.data.batching import pad
from captioner.decoding.constraints import forbid, obey
from captioner.decoding.sampling import greedy, sample
from captioner.models.captioning import CaptioningModel
from captioner.text.vocabulary import BOS, EOS, PAD, UNK
from captioner.training.losses import LossSum, cross_entropy
from captioner.types import Batch, Hypothesis, State, Step, select_state

Reward = Callable[[Sequence[int], Sequence[Sequence[int]]], Tensor]
"""(numbers of images in the training split, a caption of word ids for each) → how good each is."""


class SelfCritical(nn.Module):
    """Draw captions of each image; make those likelier whose reward is above the baseline, and the others less likely.

    The gradient is that of REINFORCE: the reward less the baseline, times that of the caption's log-probability. The
    baseline is the reward of the caption that greedy search finds (Rennie et al. 2017, "Self-critical sequence training
    for image captioning", equation 8), or the mean reward of the image's other samples (Luo 2020, "A better variant of
    self-critical sequence training"), which costs no search.

    Captions are drawn without dropout, as the model would be used, and read with it.
    """

    def __init__(
        self,
        model: CaptioningModel,
        reward: Reward,
        *,
        samples: int = 5,
        baseline: Literal["mean", "greedy"] = "mean",
        max_length: int = 20,
    ) -> None:
        super().__init__()
        self.model, self.reward = model, reward
        self.samples, self.baseline, self.max_length = samples, baseline, max_length
        self.progress = 0.0  # as in TeacherForcing, and not needed here
        self.noted: dict[str, float] = {}

    def count(self, batch: Batch) -> Tensor:
        """Captions that will be drawn."""
        return batch.image.new_tensor(len(batch.image) * self.samples)

    def forward(self, batch: Batch) -> LossSum:
        """Advantage of each caption drawn times its negative log-probability, summed."""
        state = self.model.begin(batch.source)
        drawn, baseline = self._try(batch.image, state)
        images = batch.image.repeat_interleave(self.samples)
        rewards = self.reward(images.tolist(), drawn).to(batch.image.device).view(-1, self.samples)  # (B, S)
        self.noted = {"reward": float(rewards.mean())}
        if baseline is None:
            baseline = (rewards.sum(dim=1, keepdim=True) - rewards) / (self.samples - 1)
        return self._loss(drawn, (rewards - baseline).flatten(), state)

    @torch.no_grad()
    def _try(self, images: Tensor, state: State) -> tuple[list[list[int]], Tensor | None]:
        """Draw captions, the samples of an image one after the other, and give the greedy baseline (B, 1) if asked."""
        decoder, was_training = self.model.decoder, self.model.decoder.training
        decoder.eval()
        rows = torch.arange(len(images), device=images.device).repeat_interleave(self.samples)
        step, start = _speakable(self.model.step, select_state(state, rows))
        draws = torch.rand((len(rows), self.max_length)).to(images.device)
        drawn = sample(step, start, bos=BOS, eos=EOS, draws=draws)
        baseline = None
        if self.baseline == "greedy":
            step, start = _speakable(self.model.step, state)
            best = greedy(step, start, bos=BOS, eos=EOS, max_length=self.max_length)
            baseline = self.reward(images.tolist(), _words(best)).to(images.device).unsqueeze(1)
        decoder.train(was_training)
        return _words(drawn), baseline

    def _loss(self, drawn: list[list[int]], advantages: Tensor, state: State) -> LossSum:
        longest_first = sorted(range(len(drawn)), key=lambda row: len(drawn[row]), reverse=True)
        tokens, mask = pad([[BOS, *drawn[row], EOS] for row in longest_first])
        order = torch.tensor(longest_first, device=advantages.device)
        tokens, mask = tokens.to(order.device), mask[:, 1:].to(order.device)
        reading = self.model.decoder(tokens[:, :-1], mask, select_state(state, order // self.samples))
        of_word = advantages[order].unsqueeze(1).expand(mask.shape)[mask]  # (M,)
        loss = cross_entropy(reading.hidden, self.model.decoder.output, tokens[:, 1:][mask], weights=of_word)
        return LossSum(loss.total, order.new_tensor(len(drawn)))


def _speakable(step: Step, state: State) -> tuple[Step, State]:
    return obey(step, state, [forbid([PAD, BOS, UNK])], eos=EOS)


def _words(found: Sequence[Hypothesis]) -> list[list[int]]:
    return [hypothesis.words for hypothesis in found]
