"""Parallel texts of realistic length, and the models of the translation workloads.

The models are those of configs/multi30k_sutskever.yaml (an LSTM that reads in reverse) and
configs/multi30k.yaml (GRUs with attention), but always with `decoder.bridge=affine`.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple, cast

import torch
from torch import nn

from benchmarks import plain_translator
from benchmarks.plain_translator import PlainTranslator
from benchmarks.synthetic import Setup
from captioner.config.schema import DecoderConfig, DecodingConfig, ModelConfig, TextEncoderConfig
from captioner.data.batching import pad
from captioner.data.parallel import load_pairs
from captioner.data.problems import Problems
from captioner.models.build import build_model
from captioner.models.context import AdditiveAttention
from captioner.models.encoder_decoder import EncoderDecoder
from captioner.models.text_encoder import TextEncoder
from captioner.text.multilingual import WordTokenizer
from captioner.text.tokenizer import EOS, SPECIALS, Vocabulary

MAX_LENGTH = 60  # tokens of a text, as in configs/multi30k.yaml


class Texts(NamedTuple):
    """Parallel texts, and the vocabularies of both sides."""

    pairs: list[tuple[str, str]]
    source_vocabulary: Vocabulary
    vocabulary: Vocabulary

    def token_ids(self) -> list[tuple[list[int], list[int]]]:
        """Return the ids of each pair: the source, and the target with <bos> and <eos>."""
        source, target = self.source_vocabulary, self.vocabulary
        return [
            (
                source.encode_source(source.tokenizer.tokenize(text), MAX_LENGTH),
                target.encode(target.tokenizer.tokenize(translation), MAX_LENGTH),
            )
            for text, translation in self.pairs
        ]


@dataclass(frozen=True)
class TextSetup:
    """Texts and sizes of the translation workloads; device, precision and seed are in `setup`."""

    setup: Setup
    source: Path | None = None  # texts, one a line; None: random words
    target: Path | None = None  # the translation of each line
    # of random words: as many as occur twice in the English and the German of Multi30k
    source_vocab_size: int = 5_900
    vocab_size: int = 7_900
    embed_size: int = 256
    hidden_size: int = 512  # of the decoder, and of both directions of the encoder together
    dropout: float = 0.4
    pairs: int = 2_048  # of an epoch
    batch_size: int = 128
    translated: int = 64
    beam: int = 5

    def config(self, *, attention: bool) -> ModelConfig:
        """Return the settings of the model with attention, or of the one without."""
        cell: Literal["lstm", "gru"] = "gru" if attention else "lstm"
        return ModelConfig(
            encoder=TextEncoderConfig(
                cell=cell,
                bidirectional=attention,
                reverse=not attention,
                embed_size=self.embed_size,
                hidden_size=self.hidden_size // 2 if attention else self.hidden_size,
                dropout=self.dropout,
            ),
            decoder=DecoderConfig(
                cell=cell,
                context="attention" if attention else "none",
                attention_size=self.hidden_size // 2,
                embed_size=self.embed_size,
                hidden_size=self.hidden_size,
                dropout=self.dropout,
                tie_embedding=True,
            ),
            decoding=DecodingConfig(beam=self.beam, length_alpha=1.0),
        )

    def texts(self, count: int) -> Texts:
        """Return `count` pairs of the files, drawn at random, or of random words."""
        rng = random.Random(self.setup.seed)
        if self.source is None:
            words, source_words = _words(self.vocab_size), _words(self.source_vocab_size)
            pairs = [_random_pair(rng, source_words, words) for _ in range(count)]
            return Texts(pairs, Vocabulary(source_words), Vocabulary(words))
        problems = Problems(self.source)
        loaded = load_pairs(self.source, self.target, problems)
        problems.raise_errors()
        pairs = [(pair.source, pair.captions[0]) for pair in loaded]
        tokenizer = WordTokenizer(fold_case=True)
        source_vocabulary, vocabulary = (
            Vocabulary.from_captions(map(tokenizer.tokenize, side), 2, tokenizer)
            for side in zip(*pairs, strict=True)
        )
        return Texts(rng.sample(pairs, min(count, len(pairs))), source_vocabulary, vocabulary)

    def build_model(self, texts: Texts, *, attention: bool) -> EncoderDecoder:
        """Build the model with random weights. All random numbers after it follow from the seed."""
        torch.manual_seed(self.setup.seed)
        model = build_model(
            self.config(attention=attention),
            vocab_size=len(texts.vocabulary),
            source_vocab_size=len(texts.source_vocabulary),
        )
        return model.to(self.setup.device)


def _words(vocab_size: int) -> list[str]:
    return [*SPECIALS, *(f"word{number}" for number in range(len(SPECIALS), vocab_size))]


def _random_pair(
    rng: random.Random, source_words: Sequence[str], words: Sequence[str]
) -> tuple[str, str]:
    """Return random words, as many as a pair of Multi30k has tokens, English and German.

    English has 13.0 on average (standard deviation 4.0), at least 4 and at most 40; German has 0.6
    fewer (standard deviation 2.2), at least 2 and at most 44.
    """
    source_length = min(40, max(4, round(2 + rng.lognormvariate(2.338, 0.351))))
    length = min(44, max(2, round(source_length - 0.6 + rng.gauss(0, 2.15))))
    source = rng.choices(source_words[len(SPECIALS) :], k=source_length)
    return " ".join(source), " ".join(rng.choices(words[len(SPECIALS) :], k=length))


def build_plain(model: EncoderDecoder) -> PlainTranslator:
    """Return the plain translator with the weights of `model`.

    `model` must have one layer on each side, tied embeddings, the bridge "affine", and attention or
    no context.
    """
    encoder, decoder = cast(TextEncoder, model.encoder), model.decoder
    cell: Literal["lstm", "gru"] = "lstm" if isinstance(encoder.rnn, nn.LSTM) else "gru"
    context = decoder.context
    plain = PlainTranslator(
        plain_translator.Encoder(
            encoder.embedding.num_embeddings,
            cell=cell,
            bidirectional=encoder.rnn.bidirectional,
            embed_size=encoder.embedding.embedding_dim,
            hidden_size=encoder.rnn.hidden_size,
            dropout=encoder.dropout.p,
        ),
        plain_translator.Decoder(
            decoder.embedding.num_embeddings,
            cell=cell,
            memory_size=encoder.memory_size,
            attention_size=(
                context.key.out_features if isinstance(context, AdditiveAttention) else None
            ),
            embed_size=decoder.embedding.embedding_dim,
            hidden_size=decoder.hidden_size,
            dropout=decoder.dropout.p,
        ),
    )
    state = {
        name.replace("rnn.layers.0.", "rnn.").replace("context.", "attention."): weight
        for name, weight in model.state_dict().items()
    }
    plain.load_state_dict(state)
    return plain.to(model.device)


def plain_source(token_ids: list[int], model: EncoderDecoder) -> list[int]:
    """Return the source as the plain translator reads it: in reverse if `model` reads so."""
    return token_ids[::-1] if cast(TextEncoder, model.encoder).reverse else token_ids


@torch.no_grad()
def end_after_twelve_words(model: EncoderDecoder, sources: Sequence[Sequence[int]]) -> None:
    """Make translations of `sources` about 12 words long, as those of a trained model.

    With random weights they would all reach the maximum length. The first unit h of the decoder's
    GRU becomes a counter: h + 1 starts at 0.9 on average (standard deviation 0.2 between sources)
    and shrinks by a tenth at each step. The logit of <eos> depends on h only, and exceeds those of
    all words when h + 1 is about 0.25, after ln(0.9 / 0.25) / ln(1 / 0.9) = 12 steps on average.
    """
    decoder, size = model.decoder, model.decoder.hidden_size
    gru, projection = decoder.rnn.layers[0], decoder.output_projection
    update, new = size, 2 * size  # rows of the unit's gates z and n; h' = (1 - z) n + z h
    for name in ("weight_ih_l0", "weight_hh_l0", "bias_hh_l0"):
        gru.get_parameter(name)[[update, new]] = 0
    gru.get_parameter("bias_ih_l0")[update] = torch.tensor(0.9).logit()  # z = 0.9
    gru.get_parameter("bias_ih_l0")[new] = -10.0  # n = -1, so h' + 1 = 0.9 (h + 1)
    tokens, _ = pad(sources)
    initial = decoder.initial
    assert initial is not None
    start = model.encode(tokens.to(model.device)).summary @ initial.weight[0]  # (B,) h
    scale = 0.2 / start.std()
    initial.weight[0] *= scale
    initial.bias[0] = 0.9 - 1 - scale * start.mean()
    steepness = 200.0
    projection.get_parameter("weight")[0] = 0
    projection.get_parameter("weight")[0, 0] = 1  # the first feature is h
    decoder.output.weight[EOS] = 0
    decoder.output.weight[EOS, 0] = -steepness
    decoder.output.bias[EOS] = steepness * (0.25 - 1)
