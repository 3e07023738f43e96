"""Self-critical sequence training: the model generates captions and learns from their rewards."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor

from captioner.config.schema import RewardName
from captioner.data.batching import pad
from captioner.data.plain_text import TextExample
from captioner.data.splits import SourceExample
from captioner.decoding.beam import beam_search
from captioner.decoding.constraints import apply_rules, forbid
from captioner.decoding.sampling import greedy, sample
from captioner.metrics.reward import Reward
from captioner.models.encoder_decoder import EncoderDecoder
from captioner.text.tokenizer import BOS, EOS, SUPPRESSED, Tokenizer, Vocabulary
from captioner.training.losses import LossSum, cross_entropy
from captioner.training.objectives import Objective, ObjectiveOutput
from captioner.training.validation import LengthLimits
from captioner.types import Batch, State, Step, select_state

RewardFunction = Callable[[Sequence[int], Sequence[Sequence[int]]], Tensor]
"""(index of each caption's image in the train split, token ids of each caption) -> rewards (N,)."""


class SelfCritical(Objective):
    """Raise the probability of captions whose reward is above a baseline, lower that of the others.

    The gradient is that of REINFORCE with a baseline b: the mean over captions c of
    -(r(c) - b) * gradient of log p(c), where r(c) is the reward. r(c) - b is called the advantage.

    `baseline`: "greedy" is the reward of the caption that greedy search finds (Rennie et al. 2017,
    "Self-critical sequence training for image captioning", equation 8). "mean" is the mean reward
    of the other captions of the image (Luo 2020, "A better variant of self-critical sequence
    training"); it needs no further search.

    `candidates`: "sample" draws the captions from the model; the gradient is unbiased. "beam" takes
    those of a beam search (Cornia et al. 2020, "Meshed-memory transformer for image captioning",
    section 3.3), with much less variance. Captions are generated without dropout; their
    log-probabilities are computed with it.
    """

    def __init__(
        self,
        model: EncoderDecoder,
        reward: RewardFunction,
        *,
        candidates: Literal["beam", "sample"] = "beam",
        samples: int = 5,
        baseline: Literal["mean", "greedy"] = "mean",
        limits: LengthLimits,
    ) -> None:
        super().__init__(model)
        self.reward = reward
        self.candidates, self.samples = candidates, samples  # S captions of each image
        self.baseline, self.limits = baseline, limits

    def count(self, batch: Batch) -> Tensor:
        """Return the number of captions that will be generated, B * S."""
        return batch.example_index.new_tensor(len(batch.example_index) * self.samples)

    def forward(self, batch: Batch, progress: float = 0.0) -> ObjectiveOutput:
        """Compute -advantage * log p(caption), summed over the generated captions."""
        decoder, example_index = self.model.decoder, batch.example_index  # (B,)
        memory = self.model.encode(batch.source)
        # Generate and score captions without dropout and without gradients.
        was_training = decoder.training
        decoder.eval()
        with torch.no_grad():
            state = decoder.init_state(memory)  # (B, ...)
        limits = self.limits(batch.source)  # (B,)
        captions = self._generate(state, limits)  # B * S
        images = example_index.repeat_interleave(self.samples)  # (B * S,)
        rewards = self._rewards(images, captions).view(-1, self.samples)  # (B, S)
        advantages = rewards - self._baseline(rewards, example_index, state, limits)  # (B, S)
        # Compute their log-probabilities with dropout and gradients.
        decoder.train(was_training)
        loss = self._loss(captions, advantages.flatten(), decoder.init_state(memory))
        return ObjectiveOutput(loss, {"reward": float(rewards.mean())})

    @torch.no_grad()
    def _generate(self, state: State, limits: Tensor) -> list[list[int]]:
        """Return the token ids of S captions for each image, grouped by image."""
        longest = int(limits.max())
        if self.candidates == "beam":
            step, state = _suppress(self.model.step, state, limits)
            beams = beam_search(
                step, state, bos=BOS, eos=EOS, max_length=longest, num_beams=self.samples
            )
            return [caption.token_ids for of_image in beams for caption in of_image]
        num_images, device = state[0].shape[0], state[0].device
        rows = torch.arange(num_images, device=device).repeat_interleave(self.samples)  # (B * S,)
        step, state = _suppress(self.model.step, select_state(state, rows), limits[rows])
        # Drawn on the CPU: a seed gives the same random numbers whatever the device.
        uniforms = torch.rand((len(rows), longest)).to(device)
        captions = sample(step, state, bos=BOS, eos=EOS, uniforms=uniforms)
        return [caption.token_ids for caption in captions]

    @torch.no_grad()
    def _baseline(
        self, rewards: Tensor, example_index: Tensor, state: State, limits: Tensor
    ) -> Tensor:
        """Return the baseline b of rewards (B, S): (B, S), or (B, 1) for greedy search."""
        if self.baseline == "mean":
            # Luo 2020: b of caption k is the sum of r_j over j != k, divided by S - 1.
            others = rewards.sum(dim=1, keepdim=True) - rewards  # (B, S)
            return others / (self.samples - 1)
        step, state = _suppress(self.model.step, state, limits)
        # Rennie et al. 2017: the baseline is the reward of the model's test-time inference.
        best = greedy(step, state, bos=BOS, eos=EOS, max_length=int(limits.max()))
        return self._rewards(example_index, [caption.token_ids for caption in best]).unsqueeze(1)

    def _rewards(self, images: Tensor, captions: Sequence[Sequence[int]]) -> Tensor:
        return self.reward(images.tolist(), captions).to(images.device)

    def _loss(self, captions: list[list[int]], advantages: Tensor, state: State) -> LossSum:
        """Return the cross-entropy, with tokens weighted by the advantages (B * S,) of captions."""
        # The longest caption comes first: the decoder then computes little padding.
        rows = sorted(range(len(captions)), key=lambda row: len(captions[row]), reverse=True)
        order = torch.tensor(rows, device=advantages.device)  # (N,) with N = B * S
        tokens, mask = pad([[BOS, *captions[row], EOS] for row in rows])  # (N, T), (N, T)
        tokens, mask = tokens.to(order.device), mask[:, 1:].to(order.device)
        state = select_state(state, order // self.samples)  # (N, ...)
        output = self.model.decoder(tokens[:, :-1], mask, state)
        targets = tokens[:, 1:][mask]  # (M,)
        token_advantages = advantages[order].unsqueeze(1).expand(mask.shape)[mask]  # (M,)
        loss = cross_entropy(
            output.hidden, self.model.decoder.output, targets, weights=token_advantages
        )
        return LossSum(loss.total, order.new_tensor(len(captions)))  # a mean over captions


def _suppress(step: Step, state: State, limits: Tensor) -> tuple[Step, State]:
    """Return a step that never generates special tokens such as <unk>, and its state."""
    return apply_rules(step, state, [forbid(SUPPRESSED)], eos=EOS, limits=limits)


def _to_words(tokenizer: Tokenizer) -> Callable[[list[str]], list[str]]:
    """Return a function from the tokens of a model to words: the metrics count n-grams of these.

    Characters and subwords are detokenized, and the text is tokenized into words.
    """
    if tokenizer.kind not in ("character", "subword"):
        return lambda tokens: tokens
    from captioner.text.multilingual import WordTokenizer

    words = WordTokenizer()
    return lambda tokens: words.tokenize(tokenizer.detokenize(tokens))


def caption_reward(
    train: Sequence[SourceExample | TextExample],
    vocabulary: Vocabulary,
    weights: Mapping[RewardName, float],
) -> RewardFunction:
    """Return the reward of token ids: a weighted sum of metrics against the training captions.

    The references of the split are counted once, here.
    """
    to_words = _to_words(vocabulary.tokenizer)
    references = [
        [to_words(vocabulary.tokenizer.tokenize(caption)) for caption in example.captions]
        for example in train
    ]
    score = Reward(references, weights)

    def reward(images: Sequence[int], captions: Sequence[Sequence[int]]) -> Tensor:
        words = [to_words(vocabulary.decode(caption)) for caption in captions]
        return torch.from_numpy(score(images, words)).float()

    return reward
