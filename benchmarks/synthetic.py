"""Models, captions and photographs of realistic size, made from random numbers."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F
from torchvision import models

from captioner.config.schema import (
    DecoderConfig,
    DecodingConfig,
    ImageEncoderConfig,
    ModelConfig,
    TrunkName,
)
from captioner.devices import PrecisionName
from captioner.models.build import build_model
from captioner.models.decoder import RecurrentDecoder
from captioner.models.encoder_decoder import EncoderDecoder
from captioner.text.tokenizer import BOS, EOS, SPECIALS, Vocabulary
from examples import minimal


@dataclass(frozen=True)
class Setup:
    """Sizes, device and seed of all workloads."""

    folder: Path  # for the JPEG files
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    precision: PrecisionName = "auto"
    seed: int = 0
    trunk: TrunkName = "resnet50"
    image_size: int = 224
    jpeg_size: tuple[int, int] = (640, 480)
    vocab_size: int = 10_000
    hidden_size: int = 512  # also the embedding size
    dropout: float = 0.5
    captions_per_image: int = 5
    cached_images: int = 64  # batch size of training on features
    split_images: int = 6_000  # whose captions are the references of a reward
    jpeg_images: int = 16  # batch size of training and captioning from JPEG files
    decoded_images: int = 64
    beam: int = 3
    max_length: int = 20

    @property
    def config(self) -> ModelConfig:
        """Return the model's settings. Beam search ranks captions as the baseline does."""
        return ModelConfig(
            encoder=ImageEncoderConfig(
                trunk=self.trunk, weights="none", image_size=self.image_size, batch_norm="eval"
            ),
            decoder=DecoderConfig(
                embed_size=self.hidden_size, hidden_size=self.hidden_size, dropout=self.dropout
            ),
            decoding=DecodingConfig(
                beam=self.beam, max_length=self.max_length, length_norm="average"
            ),
        )

    def limits(self, source: Tensor) -> Tensor:
        """Return the most words of a caption of each source of a batch."""
        return torch.full((len(source),), self.max_length, device=source.device)

    @property
    def vocabulary(self) -> Vocabulary:
        """Return `vocab_size` invented words."""
        numbers = range(len(SPECIALS), self.vocab_size)
        return Vocabulary([*SPECIALS, *(f"word{number}" for number in numbers)])

    def build_model(self) -> EncoderDecoder:
        """Build the model with random weights. All random numbers after it follow from the seed."""
        torch.manual_seed(self.seed)
        return build_model(self.config, vocab_size=self.vocab_size).to(self.device)

    def random_features(self, model: EncoderDecoder, images: int) -> Tensor:
        """Return features (images, C) that are at least 0, as after a ReLU."""
        return torch.randn(images, model.encoder.memory_size).relu()

    def random_captions(self, images: int) -> list[list[list[int]]]:
        """Return token ids of captions as long as those of COCO.

        They have 10.5 words on average (standard deviation 2.4), at least 6 and at most 25.
        """
        rng = random.Random(self.seed)

        def caption() -> list[int]:
            length = min(25, round(6 + rng.gammavariate(3.5, 1.29)))
            words = [rng.randrange(len(SPECIALS), self.vocab_size) for _ in range(length)]
            return [BOS, *words, EOS]

        return [[caption() for _ in range(self.captions_per_image)] for _ in range(images)]

    def write_jpegs(self) -> list[Path]:
        """Write JPEG files that have as many bytes as photographs: smooth colours, fine noise."""
        generator = torch.Generator().manual_seed(self.seed)
        width, height = self.jpeg_size
        files = []
        for number in range(self.jpeg_images):
            colours = torch.rand(1, 3, 12, 16, generator=generator)
            pixels = 255 * F.interpolate(colours, size=(height, width), mode="bicubic")[0]
            pixels += 8 * torch.randn(pixels.shape, generator=generator)
            image = Image.fromarray(pixels.clamp(0, 255).to(torch.uint8).permute(1, 2, 0).numpy())
            files.append(self.folder / f"{number}.jpg")
            image.save(files[-1], quality=90)
        return files


def build_baseline(model: EncoderDecoder) -> minimal.Captioner:
    """Return the captioner of examples/minimal.py with the weights of `model`, its CNN frozen.

    `model` must have a ResNet, an LSTM of one layer, and the image in its initial state only.
    """
    decoder = model.decoder
    baseline = minimal.Captioner(
        decoder.embedding.num_embeddings,
        models.get_model(model.encoder.name, weights=None),
        embed_size=decoder.embedding.embedding_dim,
        hidden_size=decoder.hidden_size,
        dropout=decoder.dropout.p,
    )
    names = {"encoder.trunk.": "cnn.", "decoder.rnn.layers.0.": "lstm.", "decoder.": ""}
    state = {}
    for name, weight in model.state_dict().items():
        prefix = next(prefix for prefix in names if name.startswith(prefix))
        state[names[prefix] + name.removeprefix(prefix).removesuffix("_l0")] = weight
    baseline.load_state_dict(state)
    baseline.cnn.requires_grad_(False)
    return baseline.to(model.device)


@torch.no_grad()
def end_after_ten_words(decoder: RecurrentDecoder, features: Tensor) -> None:
    """Make captions of `features` (B, C) about 10 words long, as those of a trained model.

    With random weights they would all reach the maximum length. The first hidden unit becomes a
    counter: its cell grows by 0.1 a step, from a start that differs between images (standard
    deviation 0.24, that is 2.4 words). The logit of <eos> depends on this unit only, and exceeds
    those of all words when the cell is about 1.1.
    """
    assert decoder.initial is not None
    hidden_size, lstm = decoder.hidden_size, decoder.rnn.layers[0]
    rows = torch.arange(4) * hidden_size  # of the unit, in order: input, forget, cell, output
    for name in ("weight_ih_l0", "weight_hh_l0", "bias_hh_l0"):
        lstm.get_parameter(name)[rows] = 0
    bias = torch.tensor([10.0, 10.0, 0.1, 10.0], device=features.device)  # open gates; add 0.1
    lstm.get_parameter("bias_ih_l0")[rows] = bias
    start = features @ decoder.initial.weight[hidden_size]  # (B,) the unit's cell
    scale = 0.24 / start.std()
    decoder.initial.weight[hidden_size] *= scale
    decoder.initial.bias[hidden_size] = -scale * start.mean()
    steepness = 60.0
    decoder.output.weight[EOS] = 0
    decoder.output.weight[EOS, 0] = steepness
    decoder.output.bias[EOS] = -steepness * torch.tensor(1.1).tanh()
