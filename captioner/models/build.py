"""From words in a config to a model: the only place that chooses a part of it by its name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import assert_never

import torch
from torch import Tensor

from captioner.config.schema import Config, DecoderConfig, ModelConfig
from captioner.console import console
from captioner.data.datasets import Example
from captioner.errors import CaptionerError, UsageError
from captioner.models.context import (
    AdditiveAttention,
    Context,
    EveryStep,
    FirstToken,
    InitialStateOnly,
    Merge,
)
from captioner.models.decoder import RecurrentDecoder
from captioner.models.encoder import ImageEncoder
from captioner.models.encoder_decoder import EncoderDecoder
from captioner.models.folder import read_model, resolve
from captioner.text.glove import read_glove
from captioner.text.tokenizer import tokenize
from captioner.text.vocabulary import SPECIALS, Vocabulary


def build_model(config: ModelConfig, *, vocab_size: int) -> EncoderDecoder:
    """Build the model that `config` describes, with random weights."""
    encoder = ImageEncoder(
        trunk=config.encoder.trunk, train_batch_norm=config.encoder.train_batch_norm
    )
    decoder = RecurrentDecoder(
        vocab_size=vocab_size,
        memory_size=encoder.memory_size,
        embed_size=config.decoder.embed_size,
        hidden_size=config.decoder.hidden_size,
        cell=config.decoder.cell,
        layers=config.decoder.layers,
        dropout=config.decoder.dropout,
        image_dropout=config.decoder.image_dropout,
        tie_embedding=config.decoder.tie_embedding,
        context=_context(config.decoder, memory_size=encoder.memory_size),
    )
    return EncoderDecoder(encoder, decoder)


def _context(config: DecoderConfig, *, memory_size: int) -> Context:
    match config.context:
        case "none":
            return InitialStateOnly()
        case "first_token":
            return FirstToken(memory_size=memory_size, embed_size=config.embed_size)
        case "every_step":
            return EveryStep(memory_size=memory_size, size=config.embed_size)
        case "merge":
            return Merge(memory_size=memory_size, size=config.hidden_size)
        case "attention":
            return AdditiveAttention(
                memory_size=memory_size, hidden_size=config.hidden_size, size=config.attention_size
            )
        case other:
            assert_never(other)


def load_weights(model: EncoderDecoder, state: Mapping[str, Tensor], *, source: str) -> None:
    """Load strictly: every tensor of the model, and no other.

    Raises:
        CaptionerError: names what does not fit.
    """
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        reason = "; ".join(line.strip() for line in str(error).splitlines()[1:4])
        raise CaptionerError(f"the weights in {source} do not fit the config: {reason}") from None


def start_model(
    config: Config, examples: Sequence[Example], checkpoint: Path | None
) -> tuple[EncoderDecoder, Vocabulary]:
    """Make the model that training starts from: a checkpoint's, another model folder's, or a pretrained trunk's.

    Raises:
        CaptionerError: weights and config do not fit each other.
    """
    captions = [tokenize(caption) for example in examples for caption in example.captions]
    if checkpoint:
        _, vocabulary, state = read_model(checkpoint)
        model = build_model(config, vocab_size=len(vocabulary))
        load_weights(model, state, source=str(checkpoint))
        return model, vocabulary
    if config.init is None:
        vocabulary = Vocabulary.from_captions(captions, min_count=config.data.min_count)
        model = build_model(config, vocab_size=len(vocabulary))
        model.encoder.load_trunk(config.encoder.weights)
        if config.training.glove:
            _embed(model, vocabulary, config.training.glove)
        return model, vocabulary
    if config.training.glove:
        raise UsageError(
            "training.glove and init both say what embeddings start from: leave one of them out"
        )
    folder = resolve(config.init)
    _, known, state = read_model(folder)
    vocabulary = known.extended(captions, min_count=config.data.min_count)
    old, model = (
        build_model(config, vocab_size=len(known)),
        build_model(config, vocab_size=len(vocabulary)),
    )
    load_weights(old, state, source=str(folder))
    model.encoder = old.encoder
    model.decoder.take_over(old.decoder)
    return model, vocabulary


@torch.no_grad()
def _embed(model: EncoderDecoder, vocabulary: Vocabulary, path: Path) -> None:
    """Start from the vectors that others have learnt for our words; the other words keep their random ones."""
    embedding = model.decoder.embedding
    vectors = read_glove(path, vocabulary, size=embedding.embedding_dim)
    for word, vector in vectors.items():
        embedding.weight[vocabulary.id_of(word)] = torch.tensor(vector)
    console.print(
        f"{len(vectors)} of {len(vocabulary) - len(SPECIALS)} words start from their vectors in {path}"
    )
