"""Build models from a config: the only module that turns names in a config into model parts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import assert_never

from torch import Tensor

from captioner.config.schema import DecoderConfig, ModelConfig
from captioner.errors import CaptionerError
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
