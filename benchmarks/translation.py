"""The translation workloads of the benchmark, each done by captioner and by a plain translator.

Both start from the same weights. The baseline, plain_translator.py, is the same model in the way of
the tutorials: batches in random order, a Python loop over the target steps, and beam search of one
sentence and one beam at a time. Neither side smooths the labels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import cast

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader

from benchmarks import plain_translator
from benchmarks.plain_translator import PlainTranslator
from benchmarks.texts import TextSetup, build_plain, end_after_twelve_words, plain_source
from benchmarks.workloads import Workload, take_step, train_ours
from captioner.config.schema import DecodingConfig
from captioner.config.training import PhaseConfig, TrainingConfig
from captioner.data.batching import CaptionDataset, EpochBatchSampler, Loader, TextSource
from captioner.devices import DeviceName, autocast
from captioner.inference.translator import Translator
from captioner.models.encoder_decoder import EncoderDecoder
from captioner.text.tokenizer import PAD
from captioner.training.objectives import TeacherForcing
from captioner.training.optim import make_optimizer

AGAINST = "a plain translator"


def train_text(text: TextSetup) -> Workload:
    """Train without attention, source and target tokens."""
    return _train("train-text", text, attention=False)


def train_attention(text: TextSetup) -> Workload:
    """Train with attention."""
    return _train("train-attention", text, attention=True)


def _train(name: str, text: TextSetup, *, attention: bool) -> Workload:
    texts = text.texts(text.pairs)
    pairs = texts.token_ids()
    model = text.build_model(texts, attention=attention)
    plain = build_plain(model)
    sources, targets = [source for source, _ in pairs], [[target] for _, target in pairs]
    seed = text.setup.seed
    loader = Loader(
        CaptionDataset(TextSource(sources), targets, "all", seed),
        EpochBatchSampler(len(pairs), text.batch_size, seed, lengths=list(map(len, sources))),
        workers=0,
    )
    return Workload(
        name,
        "tokens",
        sum(len(source) + len(target) - 1 for source, target in pairs),  # <bos> is not predicted
        train_ours(text.setup, TeacherForcing(model), loader, PhaseConfig()),
        _train_plain(text, plain, [(plain_source(ids, model), target) for ids, target in pairs]),
        AGAINST,
    )


def _train_plain(
    text: TextSetup, plain: PlainTranslator, pairs: Sequence[tuple[list[int], list[int]]]
) -> Callable[[], list[float]]:
    """Return a function that trains for an epoch in random order, and returns the losses."""
    settings, setup = TrainingConfig(), text.setup
    optimizer = make_optimizer(
        cast(EncoderDecoder, plain), PhaseConfig(), weight_decay=settings.weight_decay
    )

    def collate(rows: Sequence[tuple[list[int], list[int]]]) -> tuple[Tensor, Tensor, Tensor]:
        sources, targets = ([torch.tensor(ids) for ids in side] for side in zip(*rows, strict=True))
        return (
            pad_sequence(sources, batch_first=True, padding_value=PAD),
            torch.tensor([len(source) for source in sources]),
            pad_sequence(targets, batch_first=True, padding_value=PAD),
        )

    loader = DataLoader(list(pairs), text.batch_size, shuffle=True, collate_fn=collate)
    plain.train()

    def train() -> list[float]:
        losses = []
        for batch in loader:
            with autocast(setup.device, setup.precision):
                loss = plain.loss(*(tensor.to(setup.device) for tensor in batch))
            losses.append(take_step(plain, optimizer, loss, settings.gradient_clip))
        return losses

    return train


def translate(text: TextSetup) -> Workload:
    """Translate with attention and beam search, from text to text."""
    texts, setup, config = text.texts(text.translated), text.setup, text.config(attention=True)
    model = text.build_model(texts, attention=True).eval()
    end_after_twelve_words(model, [source for source, _ in texts.token_ids()])
    plain = build_plain(model).eval()
    device: DeviceName = "cuda" if setup.device.type == "cuda" else "cpu"
    translator = Translator(
        [model],
        texts.vocabulary,
        config,
        source_vocabulary=texts.source_vocabulary,
        device=device,
        precision=setup.precision,
    )
    sources = [source for source, _ in texts.pairs]

    def translate_plain() -> list[str]:
        translations = []
        for source, _ in texts.token_ids():
            with autocast(setup.device, setup.precision):
                token_ids = plain_translator.beam_search(
                    plain,
                    plain_source(source, model),
                    num_beams=text.beam,
                    max_length=max_length(source, config.decoding),
                    length_alpha=config.decoding.length_alpha,
                )
            words = texts.vocabulary.decode(token_ids)
            translations.append(texts.vocabulary.tokenizer.detokenize(words))
        return translations

    return Workload(
        "translate",
        "sentences",
        len(sources),
        lambda: [each.text for each in translator.stream(sources)],
        translate_plain,
        AGAINST,
    )


def max_length(source: Sequence[int], decoding: DecodingConfig) -> int:
    """Return the most words of the translation of a source."""
    return decoding.max_length + int(decoding.length_ratio * len(source))


WORKLOADS: dict[str, Callable[[TextSetup], Workload]] = {
    "train-text": train_text,
    "train-attention": train_attention,
    "translate": translate,
}
