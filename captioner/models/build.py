"""Build models from a config, or load them from a folder: turns names into model parts."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, assert_never

from captioner.config.schema import DecoderConfig, ModelConfig, TextEncoderConfig
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
from captioner.models.encoder_decoder import EncoderDecoder
from captioner.models.folder import read_model
from captioner.text.tokenizer import Vocabulary

if TYPE_CHECKING:
    from captioner.models.encoder import ImageEncoder
    from captioner.models.text_encoder import TextEncoder


def build_model(
    config: ModelConfig, *, vocab_size: int, source_vocab_size: int | None = None
) -> EncoderDecoder:
    """Build the model that `config` describes, with random weights.

    Args:
        config: the architecture.
        vocab_size: of the text that it generates.
        source_vocab_size: of the text that it reads; None: as `vocab_size`.

    Raises:
        UsageError: the decoder cannot start from the encoder's state as `decoder.bridge` says.
    """
    encoder = _encoder(config, source_vocab_size or vocab_size)
    if config.decoder.bridge == "copy":
        _check_bridge(config)
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
        bridge=config.decoder.bridge,
        tie_embedding=config.decoder.tie_embedding,
        context=_context(config.decoder, memory_size=encoder.memory_size),
    )
    return EncoderDecoder(encoder, decoder)


def _encoder(config: ModelConfig, vocab_size: int) -> ImageEncoder | TextEncoder:
    settings = config.encoder
    if isinstance(settings, TextEncoderConfig):
        from captioner.models.text_encoder import TextEncoder

        return TextEncoder(
            vocab_size=vocab_size,
            cell=settings.cell,
            layers=settings.layers,
            bidirectional=settings.bidirectional,
            reverse=settings.reverse,
            embed_size=settings.embed_size,
            hidden_size=settings.hidden_size,
            dropout=settings.dropout,
        )
    from captioner.models.encoder import ImageEncoder

    return ImageEncoder(
        trunk=settings.trunk,
        image_size=settings.image_size,
        mean=settings.mean,
        std=settings.std,
        train_batch_norm=settings.train_batch_norm,
    )


def _check_bridge(config: ModelConfig) -> None:
    """Raise a UsageError if the last state of the encoder is not a state of the decoder."""
    encoder, decoder = config.encoder, config.decoder
    if not isinstance(encoder, TextEncoderConfig):
        raise UsageError("decoder.bridge=copy needs a text encoder: set decoder.bridge=affine")
    if decoder.context in ("first_token", "merge"):
        raise UsageError(
            f"decoder.bridge=copy has no effect with decoder.context={decoder.context}, whose "
            "initial state is zero: set decoder.bridge=affine"
        )
    directions = 2 if encoder.bidirectional else 1
    own = (decoder.cell, decoder.layers, decoder.hidden_size)
    given = (encoder.cell, encoder.layers, encoder.hidden_size * directions)
    for name, value, needed in zip(("cell", "layers", "hidden_size"), own, given, strict=True):
        if value != needed:
            raise UsageError(
                f"decoder.bridge=copy needs decoder.{name}={needed}, as the encoder has it, not "
                f"{value}: set that, or decoder.bridge=affine"
            )


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
    source_vocabulary: Vocabulary  # of a text encoder; else the same as `vocabulary`


def load_model(folder: Path, config: ModelConfig | None = None) -> LoadedModel:
    """Load a model folder; `config` replaces its config, as where training changes the dropout.

    Raises:
        CaptionerError: a file is missing or corrupt, or the weights do not fit the config.
    """
    files = read_model(folder)
    config = config or files.config
    model = build_model(
        config,
        vocab_size=len(files.vocabulary),
        source_vocab_size=len(files.source_vocabulary),
    )
    try:
        model.load_state_dict(files.state)
    except RuntimeError as error:
        # PyTorch's message has a line for each tensor: the first three are enough
        reason = "; ".join(line.strip() for line in str(error).splitlines()[1:4])
        raise CaptionerError(f"the weights in {folder} do not fit the config: {reason}") from None
    return LoadedModel(folder, model, config, files.vocabulary, files.source_vocabulary)


def check_compatible(first: LoadedModel, other: LoadedModel) -> None:
    """Raise a UsageError if two models cannot form an ensemble."""
    if other.config.encoder.kind != first.config.encoder.kind:
        raise UsageError(
            f"{other.folder} reads {other.config.encoder.kind}s, {first.folder} reads "
            f"{first.config.encoder.kind}s: an ensemble needs one kind"
        )
    for own, others in (
        (first.vocabulary, other.vocabulary),
        (first.source_vocabulary, other.source_vocabulary),
    ):
        if own != others:
            raise UsageError(
                f"{other.folder} and {first.folder} do not share a vocabulary "
                f"({len(others)} and {len(own)} words), as an ensemble must: "
                "train them on the same captions, or start one from the other with init"
            )
    for setting in ("transform", "image_size"):
        value, other_value = (
            getattr(loaded.config.encoder, setting, None) for loaded in (first, other)
        )
        if value != other_value:
            raise UsageError(
                f"{other.folder} has encoder.{setting} {other_value}, {first.folder} has {value}: "
                "use models that share it"
            )
