"""The workloads of the benchmark. Each is done by captioner and by a baseline.

Both start from the same weights. The baseline of most workloads is examples/minimal.py: a copy of
the image for each caption, a Python loop over the steps, and one image and one beam at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader

from benchmarks.synthetic import Setup, build_baseline, end_after_ten_words
from captioner.config.training import PhaseConfig, TrainingConfig
from captioner.data.batching import (
    CaptionDataset,
    EpochBatchSampler,
    ImageSource,
    Loader,
    LoadSource,
)
from captioner.data.datasets import Example
from captioner.data.transforms import build_transform
from captioner.decoding.search import Search, build_search
from captioner.devices import DeviceName, autocast
from captioner.distributed import Ranks
from captioner.errors import ImageError
from captioner.inference.captioner import Captioner
from captioner.models.encoder_decoder import EncoderDecoder
from captioner.text.tokenizer import PAD
from captioner.training.loop import group_micro_batches, train_step
from captioner.training.objectives import Objective, TeacherForcing
from captioner.training.optim import make_optimizer
from captioner.training.self_critical import SelfCritical
from captioner.training.trainer import build_objective
from examples import minimal


@dataclass(frozen=True)
class Workload:
    """One task, done in two ways. Both return their results, so that a test can compare them."""

    name: str
    unit: str
    items: int  # processed by one call of `ours`, and of `baseline`
    ours: Callable[[], Sequence[object]]
    baseline: Callable[[], Sequence[object]]
    against: str = "a naive loop"  # what the baseline is


def train_cached(setup: Setup) -> Workload:
    """Train on features that are in memory."""
    model = setup.build_model()
    features = setup.random_features(model, setup.cached_images)
    captions = setup.random_captions(len(features))
    ours = train_ours(
        setup,
        TeacherForcing(model),
        _loader(setup, captions, lambda index, rng: features[index].unsqueeze(0)),
        PhaseConfig(),
    )
    baseline = _train_baseline(setup, model, captions, lambda index: features[index])
    return Workload("train-cached", "captions", sum(map(len, captions)), ours, baseline)


def train_jpeg(setup: Setup) -> Workload:
    """Train from JPEG files with a frozen CNN: read, transform, encode, update the decoder."""
    model, files = setup.build_model(), setup.write_jpegs()
    captions = setup.random_captions(len(files))
    source = ImageSource(
        [Example(file.name, file, ()) for file in files],
        build_transform("squash", setup.image_size),
    )
    ours = train_ours(setup, TeacherForcing(model), _loader(setup, captions, source), PhaseConfig())
    baseline = _train_baseline(
        setup, model, captions, lambda index: minimal.load_image(files[index], setup.image_size)
    )
    return Workload("train-jpeg", "captions", sum(map(len, captions)), ours, baseline)


def self_critical(setup: Setup) -> Workload:
    """Take a self-critical step whose reward is CIDEr-D against the captions of a whole split.

    The baseline is the same step with a reward that takes no time.
    """
    model, vocabulary = setup.build_model(), setup.vocabulary
    features = setup.random_features(model, setup.cached_images)
    end_after_ten_words(model.decoder, features.to(setup.device))
    captions = setup.random_captions(setup.split_images)
    split = [
        Example(number, setup.folder, tuple(" ".join(vocabulary.decode(ids)) for ids in group))
        for number, group in enumerate(captions)
    ]
    # A tiny learning rate keeps the lengths of the captions.
    phase = PhaseConfig(objective="self_critical", learning_rate=1e-6)
    with_cider = build_objective(
        phase, TrainingConfig(), model, vocabulary, split, limits=setup.limits
    )
    with_constant = SelfCritical(
        model,
        lambda images, captions: torch.arange(len(captions)) / len(captions),
        limits=setup.limits,
    )

    loader = _loader(
        setup, captions[: len(features)], lambda index, rng: features[index].unsqueeze(0)
    )
    return Workload(
        "self-critical",
        "captions",
        len(features) * with_constant.samples,
        train_ours(setup, with_cider, loader, phase),
        train_ours(setup, with_constant, loader, phase),
        "a reward that is free",
    )


def _loader(setup: Setup, captions: list[list[list[int]]], load: LoadSource) -> Loader:
    """Return a loader with one batch an epoch."""
    dataset = CaptionDataset(load, captions, setup.captions_per_image, setup.seed)
    sampler = EpochBatchSampler(len(captions), len(captions), setup.seed)
    return Loader(dataset, sampler, workers=0)


def train_ours(
    setup: Setup, objective: Objective, loader: Loader, phase: PhaseConfig
) -> Callable[[], list[float]]:
    """Return a function that trains for an epoch, and returns the loss of each step."""
    settings = TrainingConfig()
    optimizer = make_optimizer(objective.model, phase, weight_decay=settings.weight_decay)
    objective.train()

    def train() -> list[float]:
        return [
            train_step(
                objective,
                optimizer,
                micro_batches,
                count=objective.count,
                ranks=Ranks(0, 1, setup.device),
                precision=setup.precision,
                gradient_clip=settings.gradient_clip,
            ).loss.mean
            for micro_batches in group_micro_batches(loader, 1)
        ]

    return train


def take_step(
    model: nn.Module, optimizer: torch.optim.Optimizer, loss: Tensor, gradient_clip: float
) -> float:
    """Take the step of a training written the usual way, and return the loss."""
    optimizer.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), gradient_clip)
    optimizer.step()
    return loss.item()


def _train_baseline(
    setup: Setup,
    model: EncoderDecoder,
    captions: list[list[list[int]]],
    load: Callable[[int], Tensor],
) -> Callable[[], list[float]]:
    """Return a function that trains the baseline for an epoch of one step.

    `load` returns the image (3, size, size) or the features (C,) of an index, for each caption.
    """
    baseline = build_baseline(model)
    settings, phase = TrainingConfig(), PhaseConfig()
    optimizer = torch.optim.AdamW(
        [weight for weight in baseline.parameters() if weight.requires_grad],
        lr=phase.learning_rate,
        weight_decay=settings.weight_decay,
    )

    def collate(pairs: Sequence[tuple[int, list[int]]]) -> tuple[Tensor, Tensor]:
        sources = torch.stack([load(index) for index, _ in pairs])
        token_ids = [torch.tensor(caption) for _, caption in pairs]
        return sources, pad_sequence(token_ids, batch_first=True, padding_value=PAD)

    pairs = [(index, caption) for index, group in enumerate(captions) for caption in group]
    loader = DataLoader(pairs, batch_size=len(pairs), shuffle=True, collate_fn=collate)

    def train() -> list[float]:
        baseline.train()
        baseline.cnn.eval()  # keeps the statistics of its batch norms
        losses = []
        for sources, token_ids in loader:
            sources, token_ids = sources.to(setup.device), token_ids.to(setup.device)
            with autocast(setup.device, setup.precision):
                features = baseline.encode(sources) if sources.dim() == 4 else sources
                loss = baseline.loss(features, token_ids)
            losses.append(take_step(baseline, optimizer, loss, settings.gradient_clip))
        return losses

    return train


def caption_jpeg(setup: Setup) -> Workload:
    """Caption JPEG files, from the file to the sentence."""
    model = setup.build_model().eval()
    files = setup.write_jpegs()
    images = torch.stack([minimal.load_image(file, setup.image_size) for file in files])
    with torch.no_grad():
        features = build_baseline(model).eval().encode(images.to(setup.device))
    end_after_ten_words(model.decoder, features)
    baseline = build_baseline(model).eval()
    vocabulary = setup.vocabulary
    device: DeviceName = "cuda" if setup.device.type == "cuda" else "cpu"
    captioner = Captioner(
        [model], vocabulary, setup.config, device=device, precision=setup.precision
    )

    def caption_ours() -> list[str]:
        results = captioner.stream(files, batch_size=len(files))
        return [str(one) if isinstance(one, ImageError) else one.text for one in results]

    @torch.inference_mode()
    def caption_baseline() -> list[str]:
        captions = []
        for file in files:
            image = minimal.load_image(file, setup.image_size).to(setup.device)
            with autocast(setup.device, setup.precision):
                features = baseline.encode(image.unsqueeze(0))
                token_ids = _search_baseline(baseline, features, setup)
            captions.append(" ".join(vocabulary.words[token_id] for token_id in token_ids))
        return captions

    return Workload("caption-jpeg", "images", len(files), caption_ours, caption_baseline)


def decode(setup: Setup) -> Workload:
    """Search captions of features that are in memory: the decoder alone."""
    model, features = _decoder_and_features(setup)
    baseline = build_baseline(model).eval()
    search = build_search(model.step, setup.config.decoding, setup.vocabulary)

    def decode_baseline() -> list[list[int]]:
        with autocast(setup.device, setup.precision):
            return [_search_baseline(baseline, row, setup) for row in features.split(1)]

    return Workload(
        "decode",
        "images",
        len(features),
        lambda: _search_ours(search, model, features, setup),
        decode_baseline,
    )


def require(setup: Setup) -> Workload:
    """Search captions that must contain two words. The baseline is the search without them."""
    model, features = _decoder_and_features(setup)
    required = tuple(setup.vocabulary.words[-2:])
    decoding = setup.config.decoding
    with_words, without = (
        build_search(model.step, config, setup.vocabulary)
        for config in (decoding.model_copy(update={"require": required}), decoding)
    )
    return Workload(
        "require",
        "images",
        len(features),
        lambda: _search_ours(with_words, model, features, setup),
        lambda: _search_ours(without, model, features, setup),
        "the search without",
    )


def _decoder_and_features(setup: Setup) -> tuple[EncoderDecoder, Tensor]:
    """Return a model for inference, and features (B, C) whose captions end after ten words."""
    model = setup.build_model().eval()
    features = setup.random_features(model, setup.decoded_images).to(setup.device)
    end_after_ten_words(model.decoder, features)
    return model, features


@torch.inference_mode()
def _search_ours(
    search: Search, model: EncoderDecoder, features: Tensor, setup: Setup
) -> list[list[int]]:
    """Return the best caption of each row of features (B, C), as token ids."""
    with autocast(setup.device, setup.precision):
        state = model.init_state(features.unsqueeze(1))  # (B, 1, C): a grid of one position
        return [best.token_ids for best, *_ in search(state, ())]


def _search_baseline(baseline: minimal.Captioner, features: Tensor, setup: Setup) -> list[int]:
    return minimal.beam_search(
        baseline, features, max_length=setup.max_length, num_beams=setup.beam
    )


WORKLOADS: dict[str, Callable[[Setup], Workload]] = {
    "train-cached": train_cached,
    "train-jpeg": train_jpeg,
    "self-critical": self_critical,
    "caption-jpeg": caption_jpeg,
    "decode": decode,
    "require": require,
}
