"""From words in a config to a model: the only place that chooses a part of it by its name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import assert_never

from torch import Tensor

from captioner.config.schema import DecoderConfig, ModelConfig
from captioner.errors import CaptionerError
from captioner.models.captioning import CaptioningModel
from captioner.models.context import AdditiveAttention, EveryStep, FirstToken, Merge, NoContext
from captioner.models.decoder import RecurrentDecoder
from captioner.models.encoder import ImageEncoder


def build_model(config: ModelConfig, *, vocab_size: int) -> CaptioningModel:
    """Make the model, with random weights."""
    encoder, decoder = config.encoder, config.decoder
    seeing = ImageEncoder(trunk=encoder.trunk, train_batch_norm=encoder.train_batch_norm)
    saying = RecurrentDecoder(
        vocab_size=vocab_size,
        memory_size=seeing.memory_size,
        embed_size=decoder.embed_size,
        hidden_size=decoder.hidden_size,
        cell=decoder.cell,
        layers=decoder.layers,
        dropout=decoder.dropout,
        image_dropout=decoder.image_dropout,
        tie_embedding=decoder.tie_embedding,
        context=_context(decoder, memory_size=seeing.memory_size),
    )
    return CaptioningModel(seeing, saying)


def _context(config: DecoderConfig, *, memory_size: int) -> NoContext:
    match config.context:
        case "none":
            return NoContext()
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


def load_weights(model: CaptioningModel, state: Mapping[str, Tensor], *, source: str) -> None:
    """Load strictly: every tensor of the model, and no other.

    Raises:
        CaptionerError: names what does not fit.
    """
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        reason = "; ".join(line.strip() for line in str(error).splitlines()[1:4])
        raise CaptionerError(f"the weights in {source} do not fit the config: {reason}") from None
