"""Build models from a config, or load them from a folder: turns names into model parts."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple, assert_never

from captioner.config.schema import DecoderConfig, ModelConfig
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
from captioner.models.folder import read_model
from captioner.text.tokenizer import Vocabulary


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


class LoadedModel(NamedTuple):
    """A model that was read from a folder."""

    folder: Path
    model: EncoderDecoder
    config: ModelConfig
    vocabulary: Vocabulary


def load_model(folder: Path, config: ModelConfig | None = None) -> LoadedModel:
    """Load a model folder; `config` replaces its config, as where training changes the dropout.

    Raises:
        CaptionerError: a file is missing or corrupt, or the weights do not fit the config.
    """
    saved_config, vocabulary, state = read_model(folder)
    config = config or saved_config
    model = build_model(config, vocab_size=len(vocabulary))
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        # PyTorch's message has a line for each tensor: the first three are enough
        reason = "; ".join(line.strip() for line in str(error).splitlines()[1:4])
        raise CaptionerError(f"the weights in {folder} do not fit the config: {reason}") from None
    return LoadedModel(folder, model, config, vocabulary)


def check_compatible(first: LoadedModel, other: LoadedModel) -> None:
    """Raise a UsageError if two models cannot form an ensemble."""
    if other.vocabulary != first.vocabulary:
        raise UsageError(
            f"{other.folder} and {first.folder} do not share a vocabulary "
            f"({len(other.vocabulary)} and {len(first.vocabulary)} words), as an ensemble must: "
            "train them on the same captions, or start one from the other with init"
        )
    for setting in ("transform", "image_size"):
        value, other_value = (getattr(loaded.config.encoder, setting) for loaded in (first, other))
        if value != other_value:
            raise UsageError(
                f"{other.folder} has encoder.{setting} {other_value}, {first.folder} has {value}: "
                "use models that share it"
            )
