"""The same captioner, written the way tutorials write it: what `scripts/benchmark.py` measures ours against.

It takes its weights from a model of ours and computes the same loss, the same update and the same captions; only the
work is laid out differently: each caption brings its own image, padding is read and projected like words, steps are a
Python loop, images are captioned one at a time, and every beam is stepped alone and its words sorted.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from captioner.config.schema import PrecisionName
from captioner.devices import autocast
from captioner.models.encoder_decoder import EncoderDecoder
from captioner.text.vocabulary import BOS, EOS, PAD, UNK

Pair = tuple[Tensor, Tensor]
"""A picture (3, size, size), or its features (C,), and the numbers of one of its captions (T,)."""


class NaiveCaptioner(nn.Module):
    """A frozen CNN and an LSTM of one layer, with the weights of `model`."""

    def __init__(self, model: EncoderDecoder) -> None:
        super().__init__()
        theirs = deepcopy(model.decoder)
        self.trunk = deepcopy(model.encoder.trunk).to(memory_format=torch.contiguous_format)
        self.embedding, self.initial, self.output = theirs.embedding, theirs.initial, theirs.output
        layer = theirs.rnn.layers[0]
        self.cell = nn.LSTMCell(layer.input_size, layer.hidden_size)
        weights = layer.state_dict()
        self.cell.load_state_dict(
            {name.removesuffix("_l0"): weight for name, weight in weights.items()}
        )
        self.dropout = theirs.dropout

    def encode(self, images: Tensor) -> Tensor:
        """(N, 3, size, size) normalised images → (N, C); features pass."""
        if images.dim() == 2:
            return images
        self.trunk.eval()
        with torch.no_grad():
            features: Tensor = self.trunk(images)
        return features

    def forward(self, images: Tensor, tokens: Tensor) -> Tensor:
        """Logits (N, T-1, V) of every place, padding and all."""
        hidden, cell = self.initial(self.encode(images)).chunk(2, dim=1)
        outputs = []
        for place in range(tokens.shape[1] - 1):
            word = self.dropout(self.embedding(tokens[:, place]))
            hidden, cell = self.cell(word, (hidden, cell))
            outputs.append(hidden)
        logits: Tensor = self.output(self.dropout(torch.stack(outputs, dim=1)))
        return logits

    @torch.inference_mode()
    def caption(self, image: Tensor, *, beam: int, max_length: int) -> list[int]:
        """Find the best caption of an image (3, size, size), or its features (C,), by the rule of our beam search."""
        hidden, cell = self.initial(self.encode(image.unsqueeze(0))).chunk(2, dim=1)
        alive = [(0.0, [BOS], hidden, cell)]
        finished: list[tuple[float, list[int]]] = []
        for _ in range(max_length):
            candidates = []
            for score, words, hidden, cell in alive:
                log_probs, hidden, cell = self._step(words[-1], hidden, cell)
                values, indices = torch.sort(log_probs, descending=True)
                for value, index in zip(
                    values[:beam].tolist(), indices[:beam].tolist(), strict=True
                ):
                    candidates.append((score + value, [*words, index], hidden, cell))
            candidates.sort(key=lambda candidate: candidate[0], reverse=True)
            alive = []
            for candidate in candidates[: beam - len(finished)]:
                if candidate[1][-1] == EOS:
                    finished.append(candidate[:2])
                else:
                    alive.append(candidate)
            if not alive:
                break
        for score, words, hidden, cell in alive:
            finished.append(
                (score + float(self._step(words[-1], hidden, cell)[0][EOS]), [*words, EOS])
            )
        _, best = max(finished, key=lambda caption: caption[0] / (len(caption[1]) - 1))
        return best[1:-1]

    def _step(self, word: int, hidden: Tensor, cell: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Log-probabilities (V,) of the next word, and the new state."""
        embedded = self.embedding(torch.tensor([word], device=hidden.device))
        hidden, cell = self.cell(embedded, (hidden, cell))
        log_probs = self.output(hidden)[0].float().log_softmax(dim=0)
        log_probs[[PAD, BOS, UNK]] = -float("inf")
        return log_probs, hidden, cell


@dataclass
class Pairs(Dataset[Pair]):
    """One row for each caption, with its own copy of the image, or of the features."""

    sources: Sequence[Path] | Tensor
    captions: Sequence[tuple[int, list[int]]]  # whose it is, and its words
    image_size: int

    def __len__(self) -> int:
        return len(self.captions)

    def __getitem__(self, index: int) -> Pair:
        image, words = self.captions[index]
        source = self.sources[image]
        return source if isinstance(source, Tensor) else read(
            source, self.image_size
        ), torch.tensor(words)


def read(path: Path, size: int) -> Tensor:
    """Decode the whole picture, squash it to a square and normalise it."""
    transform = transforms.Compose(
        [
            transforms.Resize((size, size)),
            transforms.ToTensor(),
            transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ]
    )
    with Image.open(path) as image:
        pixels: Tensor = transform(image.convert("RGB"))
    return pixels


def pad(pairs: Sequence[Pair]) -> Pair:
    """Stack pairs as they come."""
    images, captions = zip(*pairs, strict=True)
    return torch.stack(images), pad_sequence(list(captions), batch_first=True, padding_value=PAD)


def train(
    model: NaiveCaptioner,
    optimizer: torch.optim.Optimizer,
    loader: DataLoader[Pair],
    *,
    device: torch.device,
    precision: PrecisionName,
    gradient_clip: float,
) -> list[float]:
    """Take a step for each batch, and give the losses."""
    model.train()
    losses = []
    for images, tokens in loader:
        images, tokens = images.to(device), tokens.to(device)
        optimizer.zero_grad()
        with autocast(device, precision):
            logits = model(images, tokens)
            loss = F.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten(), ignore_index=PAD)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(
            [weight for weight in model.parameters() if weight.requires_grad], gradient_clip
        )
        optimizer.step()
        losses.append(loss.item())
    return losses
