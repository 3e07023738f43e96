"""Build models from a config: the only module that turns names in a config into model parts."""

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
    # the parts take plain keyword arguments: configs stop here
    decoder = RecurrentDecoder(
        vocab_size=vocab_size,  # V
        memory_size=encoder.memory_size,  # C
        embed_size=config.decoder.embed_size,  # E
        hidden_size=config.decoder.hidden_size,  # H
        cell=config.decoder.cell,
        layers=config.decoder.layers,  # L
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
            # the output layer gets as many features of the image as of the text
            return Merge(memory_size=memory_size, size=config.hidden_size)
        case "attention":
            return AdditiveAttention(
                memory_size=memory_size, hidden_size=config.hidden_size, size=config.attention_size
            )
        case other:
            assert_never(other)


def load_weights(model: EncoderDecoder, state: Mapping[str, Tensor], *, source: str) -> None:
    """Load a state dict that holds every tensor of the model and no other.

    Raises:
        CaptionerError: a tensor is missing, unknown or of another shape; `source` is named.
    """
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        # PyTorch's message has a line for each tensor: the first three are enough
        reason = "; ".join(line.strip() for line in str(error).splitlines()[1:4])
        raise CaptionerError(f"the weights in {source} do not fit the config: {reason}") from None


def start_model(
    config: Config, examples: Sequence[Example], checkpoint: Path | None
) -> tuple[EncoderDecoder, Vocabulary]:
    """Build the model that training starts from, and its vocabulary.

    Its weights come from a checkpoint, or else from another model folder (`config.init`), or else
    they are random, but for a pretrained trunk and GloVe embeddings where the config asks for them.

    Raises:
        CaptionerError: the weights do not fit the config.
        UsageError: both `config.init` and `config.training.glove` are set.
    """
    if checkpoint is not None:
        return _load_checkpoint(config, checkpoint)
    captions = [tokenize(caption) for example in examples for caption in example.captions]
    if config.init is None:
        return _new_model(config, captions)
    if config.training.glove:
        raise UsageError("training.glove and init both set the first embeddings: leave one out")
    return _continue_model(config, captions, resolve(config.init))


def _load_checkpoint(config: ModelConfig, folder: Path) -> tuple[EncoderDecoder, Vocabulary]:
    _, vocabulary, state = read_model(folder)
    model = build_model(config, vocab_size=len(vocabulary))
    load_weights(model, state, source=str(folder))
    return model, vocabulary


def _new_model(config: Config, captions: list[list[str]]) -> tuple[EncoderDecoder, Vocabulary]:
    vocabulary = Vocabulary.from_captions(captions, min_count=config.data.min_count)
    model = build_model(config, vocab_size=len(vocabulary))
    model.encoder.load_trunk(config.encoder.weights)
    if config.training.glove:
        _load_embeddings(model, vocabulary, config.training.glove)
    return model, vocabulary


def _continue_model(
    config: Config, captions: list[list[str]], folder: Path
) -> tuple[EncoderDecoder, Vocabulary]:
    """Copy the weights of a model folder, and extend its vocabulary by the words of `captions`."""
    trained, known = _load_checkpoint(config, folder)
    vocabulary = known.extended(captions, min_count=config.data.min_count)
    model = build_model(config, vocab_size=len(vocabulary))  # new words have random weights
    model.encoder = trained.encoder  # does not depend on the vocabulary
    model.decoder.copy_weights(trained.decoder)
    return model, vocabulary


@torch.no_grad()
def _load_embeddings(model: EncoderDecoder, vocabulary: Vocabulary, path: Path) -> None:
    """Set the embeddings of words that a GloVe file has; other words keep their random ones."""
    embedding = model.decoder.embedding
    vectors = read_glove(path, vocabulary, size=embedding.embedding_dim)
    for word, vector in vectors.items():
        embedding.weight[vocabulary.id_of(word)] = torch.tensor(vector)
    words = len(vocabulary) - len(SPECIALS)
    console.print(f"{len(vectors)} of {words} words start from their vectors in {path}")
