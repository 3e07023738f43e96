"""Teaching without true words to say: the model finds captions, and learns to prefer those that score well."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor

from captioner.data.batching import pad
from captioner.decoding.beam import beam_search
from captioner.decoding.constraints import forbid, obey
from captioner.decoding.sampling import greedy, sample
from captioner.models.encoder_decoder import EncoderDecoder
from captioner.text.vocabulary import BOS, EOS, SUPPRESSED
from captioner.training.losses import LossSum, cross_entropy
from captioner.training.objectives import Objective
from captioner.types import Batch, State, Step, select_state

Reward = Callable[[Sequence[int], Sequence[Sequence[int]]], Tensor]
"""(numbers of images in the training split, a caption of word ids for each) → how good each is."""


class SelfCritical(Objective):
    """Find captions of each image; make those likelier whose reward is above the baseline, the others less likely.

    The gradient is that of REINFORCE: the reward less the baseline, times that of the caption's log-probability. The
    baseline is the reward of the caption that greedy search finds (Rennie et al. 2017, "Self-critical sequence training
    for image captioning", equation 8), or the mean reward of the image's other captions (Luo 2020, "A better variant of
    self-critical sequence training"), which costs no search.

    Captions are drawn, or are the best of a beam search (Cornia et al. 2020, "Meshed-memory transformer for image
    captioning", section 3.3). Drawn ones give an unbiased gradient; those of a beam, a far less noisy one, of what the
    model would say. They are found without dropout, as the model would be used, and read with it.
    """

    def __init__(
        self,
        model: EncoderDecoder,
        reward: Reward,
        *,
        candidates: Literal["beam", "sample"] = "beam",
        samples: int = 5,
        baseline: Literal["mean", "greedy"] = "mean",
        max_length: int = 20,
    ) -> None:
        super().__init__(model)
        self.reward = reward
        self.candidates, self.samples = candidates, samples
        self.baseline, self.max_length = baseline, max_length

    def count(self, batch: Batch) -> Tensor:
        """Captions that will be found."""
        return batch.example_index.new_tensor(len(batch.example_index) * self.samples)

    def forward(self, batch: Batch) -> LossSum:
        """Advantage of each caption found times its negative log-probability, summed."""
        memory = self.model.encode(batch.source)
        decoder, was_training = self.model.decoder, self.model.decoder.training
        decoder.eval()
        with torch.no_grad():
            state = self.model.decoder.init_state(memory)
        found = self._find(state)
        images = batch.example_index.repeat_interleave(self.samples)
        rewards = self._score(images, found).view(-1, self.samples)  # (B, S)
        self.noted = {"reward": float(rewards.mean())}
        advantages = rewards - self._baseline(rewards, batch.example_index, state)
        decoder.train(was_training)
        return self._loss(found, advantages.flatten(), self.model.decoder.init_state(memory))

    @torch.no_grad()
    def _find(self, state: State) -> list[list[int]]:
        """Give the word ids of captions, those of an image one after the other."""
        if self.candidates == "beam":
            step, state = _speakable(self.model.step, state)
            beams = beam_search(
                step, state, bos=BOS, eos=EOS, max_length=self.max_length, beam=self.samples
            )
            return [caption.token_ids for found in beams for caption in found]
        images, device = state[0].shape[0], state[0].device
        rows = torch.arange(images, device=device).repeat_interleave(self.samples)
        step, state = _speakable(self.model.step, select_state(state, rows))
        draws = torch.rand((len(rows), self.max_length)).to(device)
        return [caption.token_ids for caption in sample(step, state, bos=BOS, eos=EOS, draws=draws)]

    @torch.no_grad()
    def _baseline(self, rewards: Tensor, images: Tensor, state: State) -> Tensor:
        """Give what each reward (B, S) is compared with."""
        if self.baseline == "mean":
            return (rewards.sum(dim=1, keepdim=True) - rewards) / (self.samples - 1)
        step, state = _speakable(self.model.step, state)
        best = greedy(step, state, bos=BOS, eos=EOS, max_length=self.max_length)
        return self._score(images, [caption.token_ids for caption in best]).unsqueeze(1)

    def _score(self, images: Tensor, captions: Sequence[Sequence[int]]) -> Tensor:
        return self.reward(images.tolist(), captions).to(images.device)

    def _loss(self, found: list[list[int]], advantages: Tensor, state: State) -> LossSum:
        longest_first = sorted(range(len(found)), key=lambda row: len(found[row]), reverse=True)
        tokens, mask = pad([[BOS, *found[row], EOS] for row in longest_first])
        order = torch.tensor(longest_first, device=advantages.device)
        tokens, mask = tokens.to(order.device), mask[:, 1:].to(order.device)
        output = self.model.decoder(
            tokens[:, :-1], mask, select_state(state, order // self.samples)
        )
        of_word = advantages[order].unsqueeze(1).expand(mask.shape)[mask]  # (M,)
        loss = cross_entropy(
            output.hidden, self.model.decoder.output, tokens[:, 1:][mask], weights=of_word
        )
        return LossSum(loss.total, order.new_tensor(len(found)))


def _speakable(step: Step, state: State) -> tuple[Step, State]:
    return obey(step, state, [forbid(SUPPRESSED)], eos=EOS)
