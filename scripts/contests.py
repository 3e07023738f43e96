"""What `scripts/benchmark.py` measures: jobs that are each done by our code and another way, from the same weights."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import naive
import torch
from naive import NaiveCaptioner
from PIL import Image
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader

from captioner.config.schema import (
    DecoderConfig,
    DecodingConfig,
    DeviceName,
    EncoderConfig,
    ModelConfig,
    PhaseConfig,
    PrecisionName,
    TrainingConfig,
    TrunkName,
)
from captioner.data.batching import CaptionDataset, EpochSampler, ImageSource, Load
from captioner.data.datasets import Example
from captioner.data.loading import Loader
from captioner.data.transforms import build_transform
from captioner.decoding.search import Search, build_search
from captioner.devices import autocast, pick_device
from captioner.distributed import Ranks
from captioner.errors import ImageError
from captioner.inference.captioner import Captioner
from captioner.models.build import build_model
from captioner.models.decoder import RecurrentDecoder
from captioner.models.encoder_decoder import EncoderDecoder
from captioner.text.vocabulary import BOS, EOS, SPECIALS, Vocabulary
from captioner.training.build import build_objective
from captioner.training.loop import fit, in_groups
from captioner.training.losses import LossSum
from captioner.training.objectives import Objective, TeacherForcing
from captioner.training.optim import make_optimizer
from captioner.training.self_critical import SelfCritical


@dataclass(frozen=True)
class Contest:
    """One job, and two ways to do it. Both give what they found, so that a test can compare that too."""

    name: str
    unit: str
    items: int  # done in a round
    ours: Callable[[], Sequence[object]]
    naive: Callable[[], Sequence[object]]
    against: str = "a naive loop"  # what the other way is


@dataclass(frozen=True)
class Setting:
    """How large everything is, and where it is computed. Random numbers begin at `seed` in each contest."""

    folder: Path  # for the pictures
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    precision: PrecisionName = "auto"
    seed: int = 0
    trunk: TrunkName = "resnet50"
    image_size: int = 224
    picture: tuple[int, int] = (640, 480)  # of the JPEG files
    words: int = 10_000  # in the vocabulary
    width: int = 512  # of embedding and hidden state
    dropout: float = 0.5
    captions: int = 5  # of an image
    cached_images: int = 64  # in a batch that trains on features
    split_images: int = 6_000  # whose captions a reward knows
    jpeg_images: int = 16  # in a batch that begins at JPEG files, also for captioning
    decoded_images: int = 64
    beam: int = 3  # ranked by the mean log-probability of a word, as the naive one does
    max_length: int = 20

    @property
    def config(self) -> ModelConfig:
        """The model."""
        return ModelConfig(
            encoder=EncoderConfig(
                trunk=self.trunk, weights="none", image_size=self.image_size, batch_norm="eval"
            ),
            decoder=DecoderConfig(
                embed_size=self.width, hidden_size=self.width, dropout=self.dropout
            ),
            decoding=DecodingConfig(
                beam=self.beam, max_length=self.max_length, length_norm="average"
            ),
        )

    @property
    def vocabulary(self) -> Vocabulary:
        """As many words as the model knows."""
        return Vocabulary(
            [*SPECIALS, *(f"word{number}" for number in range(len(SPECIALS), self.words))]
        )

    def model(self) -> EncoderDecoder:
        """Make it, with the random weights that belong to the seed."""
        torch.manual_seed(self.seed)
        return build_model(self.config, vocab_size=self.words).to(self.device)


def train_cached(setting: Setting) -> Contest:
    """Train on features that are in memory."""
    model = setting.model()
    features = torch.randn(setting.cached_images, model.encoder.memory_size).relu()
    return _training(
        setting, model, features, lambda index, rng: features[index].unsqueeze(0), "train-cached"
    )


def train_jpeg(setting: Setting) -> Contest:
    """Train on pictures, with a frozen CNN: read, transform, encode, learn."""
    files = _draw_pictures(setting)
    load = ImageSource(
        [Example(file.name, file, ()) for file in files],
        build_transform("squash", setting.image_size),
    )
    return _training(setting, setting.model(), files, load, "train-jpeg")


def _training(
    setting: Setting,
    model: EncoderDecoder,
    sources: Sequence[Path] | Tensor,
    load: Load,
    name: str,
) -> Contest:
    """A round is one step: data loader, forward, backward, clipping and AdamW."""
    captions = _say_something(setting, len(sources))
    pairs = [(image, caption) for image, of_image in enumerate(captions) for caption in of_image]
    defaults, phase = TrainingConfig(), PhaseConfig()
    theirs = NaiveCaptioner(model).to(setting.device)
    their_optimizer = torch.optim.AdamW(
        (weight for weight in theirs.parameters() if weight.requires_grad),
        lr=phase.learning_rate,
        weight_decay=defaults.weight_decay,
    )
    their_loader = DataLoader(
        naive.Pairs(sources, pairs, setting.image_size),
        batch_size=len(pairs),
        shuffle=True,
        collate_fn=naive.pad,
    )
    train_ours = _steps(setting, TeacherForcing(model), _loader(load, captions, setting), phase)

    def train_naive() -> list[float]:
        return naive.train(
            theirs,
            their_optimizer,
            their_loader,
            device=setting.device,
            precision=setting.precision,
            gradient_clip=defaults.gradient_clip,
        )

    return Contest(name, "captions", len(pairs), train_ours, train_naive)


def self_critical(setting: Setting) -> Contest:
    """Take a self-critical step, rewarded with CIDEr-D among a whole split; the other way's reward costs nothing."""
    model, vocabulary = setting.model(), setting.vocabulary
    features = torch.randn(setting.cached_images, model.encoder.memory_size).relu()
    _end_after_ten_words(model.decoder, features.to(setting.device))
    captions = _say_something(setting, setting.split_images)
    texts = [
        tuple(" ".join(vocabulary.decode(caption)) for caption in of_image) for of_image in captions
    ]
    split = [Example(number, setting.folder, said) for number, said in enumerate(texts)]
    phase = PhaseConfig(
        objective="self_critical", learning_rate=1e-6
    )  # so that captions stay as long as they are
    rewarded = build_objective(
        phase, TrainingConfig(), model, vocabulary, split, max_length=setting.max_length
    )
    free = SelfCritical(
        model,
        lambda images, found: torch.arange(len(found)) / len(found),
        max_length=setting.max_length,
    )

    def load(index: int, rng: random.Random) -> Tensor:
        return features[index].unsqueeze(0)

    loader = _loader(load, captions[: len(features)], setting)
    ours, theirs = (_steps(setting, objective, loader, phase) for objective in (rewarded, free))
    return Contest(
        "self-critical",
        "captions",
        len(features) * free.samples,
        ours,
        theirs,
        "a reward that is free",
    )


def _loader(load: Load, captions: list[list[list[int]]], setting: Setting) -> Loader:
    """Give one batch an epoch."""
    dataset = CaptionDataset(load, captions, setting.captions, setting.seed)
    return Loader(dataset, EpochSampler(len(captions), len(captions), setting.seed), workers=0)


def _steps(
    setting: Setting, objective: Objective, loader: Loader, phase: PhaseConfig
) -> Callable[[], list[float]]:
    """Make what takes a step for each of the loader's batches, and gives their losses."""
    defaults = TrainingConfig()
    optimizer = make_optimizer(objective.model, phase, weight_decay=defaults.weight_decay)
    objective.train()

    def take() -> list[float]:
        losses: list[float] = []

        def after_step(loss: LossSum) -> bool:
            losses.append(loss.mean)
            return False

        fit(
            objective,
            optimizer,
            in_groups(loader, 1),
            count=objective.count,
            ranks=Ranks(0, 1, setting.device),
            precision=setting.precision,
            gradient_clip=defaults.gradient_clip,
            before_step=lambda: None,
            after_step=after_step,
        )
        return losses

    return take


def caption_jpeg(setting: Setting) -> Contest:
    """Caption pictures, from their files to sentences."""
    model = setting.model().eval()
    files = _draw_pictures(setting)
    pictures = torch.stack([naive.read(file, setting.image_size) for file in files]).to(
        setting.device
    )
    theirs = NaiveCaptioner(model).eval()
    _end_after_ten_words(model.decoder, theirs.encode(pictures))
    theirs = NaiveCaptioner(model).eval()
    device: DeviceName = "cuda" if setting.device.type == "cuda" else "cpu"
    captioner = Captioner(
        [model], setting.vocabulary, setting.config, device=device, precision=setting.precision
    )

    def caption_ours() -> list[str]:
        return [
            str(caption) if isinstance(caption, ImageError) else caption.text
            for caption in captioner.stream(files, batch_size=len(files))
        ]

    def caption_naive() -> list[str]:
        captions = []
        for file in files:
            picture = naive.read(file, setting.image_size).to(setting.device)
            with autocast(setting.device, setting.precision):
                words = theirs.caption(picture, beam=setting.beam, max_length=setting.max_length)
            captions.append(" ".join(setting.vocabulary.words[word] for word in words))
        return captions

    return Contest("caption-jpeg", "images", len(files), caption_ours, caption_naive)


def decode(setting: Setting) -> Contest:
    """Search captions for features that are in memory: the decoder alone."""
    model = setting.model().eval()
    features = (
        torch.randn(setting.decoded_images, model.encoder.memory_size).relu().to(setting.device)
    )
    _end_after_ten_words(model.decoder, features)
    theirs = NaiveCaptioner(model).eval()
    search = build_search(model.step, setting.config.decoding, setting.vocabulary)

    @torch.inference_mode()
    def decode_ours() -> list[list[int]]:
        with autocast(setting.device, setting.precision):
            return [
                best.token_ids for best, *_ in search(model.init_state(features.unsqueeze(1)), ())
            ]

    def decode_naive() -> list[list[int]]:
        with autocast(setting.device, setting.precision):
            return [
                theirs.caption(feature, beam=setting.beam, max_length=setting.max_length)
                for feature in features
            ]

    return Contest("decode", "images", len(features), decode_ours, decode_naive)


def require(setting: Setting) -> Contest:
    """Search captions that must hold two words; the other way is the same search without them."""
    model = setting.model().eval()
    features = (
        torch.randn(setting.decoded_images, model.encoder.memory_size).relu().to(setting.device)
    )
    _end_after_ten_words(model.decoder, features)
    wanted = setting.config.decoding.model_copy(
        update={"require": tuple(setting.vocabulary.words[-2:])}
    )
    plain, requiring = (
        build_search(model.step, decoding, setting.vocabulary)
        for decoding in (setting.config.decoding, wanted)
    )

    @torch.inference_mode()
    def decode(search: Search) -> list[list[int]]:
        with autocast(setting.device, setting.precision):
            return [
                best.token_ids for best, *_ in search(model.init_state(features.unsqueeze(1)), ())
            ]

    return Contest(
        "require",
        "images",
        len(features),
        lambda: decode(requiring),
        lambda: decode(plain),
        "the search without",
    )


CONTESTS: dict[str, Callable[[Setting], Contest]] = {
    "train-cached": train_cached,
    "train-jpeg": train_jpeg,
    "self-critical": self_critical,
    "caption-jpeg": caption_jpeg,
    "decode": decode,
    "require": require,
}


def choose_device(name: DeviceName) -> torch.device:
    """Give the device, and keep to one thread: a figure for one core says what every other core would add."""
    torch.set_num_threads(1)
    return pick_device(name)


def _say_something(setting: Setting, images: int) -> list[list[list[int]]]:
    """Captions as long as COCO's: 10.5 words on average, deviation 2.4, at least 6, few long ones, none above 25."""
    rng = random.Random(setting.seed)

    def caption() -> list[int]:
        length = min(25, round(6 + rng.gammavariate(3.5, 1.29)))
        return [BOS, *(rng.randrange(len(SPECIALS), setting.words) for _ in range(length)), EOS]

    return [[caption() for _ in range(setting.captions)] for _ in range(images)]


def _draw_pictures(setting: Setting) -> list[Path]:
    """Write JPEG files with the weight of photographs: clouds of colour under fine noise."""
    generator = torch.Generator().manual_seed(setting.seed)
    width, height = setting.picture
    files = []
    for number in range(setting.jpeg_images):
        clouds = torch.rand(1, 3, 12, 16, generator=generator)
        pixels = 255 * F.interpolate(clouds, size=(height, width), mode="bicubic")[0]
        pixels += 8 * torch.randn(pixels.shape, generator=generator)
        picture = Image.fromarray(pixels.clamp(0, 255).to(torch.uint8).permute(1, 2, 0).numpy())
        files.append(setting.folder / f"{number}.jpg")
        picture.save(files[-1], quality=90)
    return files


@torch.no_grad()
def _end_after_ten_words(decoder: RecurrentDecoder, summary: Tensor) -> None:
    """Let captions end as a trained model's do, after 10 words or so: random weights would go on for ever.

    The first hidden unit becomes a clock: its cell adds a tenth at each word, from a start that differs between images
    (deviation: 2.4 words). <eos> listens to it alone, and overtakes all other words around the tenth.
    """
    hidden, rnn = decoder.hidden_size, decoder.rnn.layers[0]
    gates = torch.arange(4) * hidden  # of the unit: input, forget, cell, output
    for name in ("weight_ih_l0", "weight_hh_l0", "bias_hh_l0"):
        rnn.get_parameter(name)[gates] = 0
    rnn.get_parameter("bias_ih_l0")[gates] = torch.tensor(
        [10.0, 10.0, 0.1, 10.0], device=summary.device
    )
    start = summary @ decoder.initial.weight[hidden]  # (B,) of its cell
    scale = 0.24 / start.std()
    decoder.initial.weight[hidden] *= scale
    decoder.initial.bias[hidden] = -scale * start.mean()
    steepness = 60.0
    decoder.output.weight[EOS] = 0
    decoder.output.weight[EOS, 0] = steepness
    decoder.output.bias[EOS] = -steepness * torch.tensor(1.1).tanh()
