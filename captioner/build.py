"""From words in a config to a model: the only place that chooses a part of it by its name."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from captioner.config import ModelConfig
from captioner.errors import CaptionerError
from captioner.models.captioning import CaptioningModel
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
        tie_embedding=decoder.tie_embedding,
    )
    return CaptioningModel(seeing, saying)


def load_weights(model: CaptioningModel, state: Mapping[str, Tensor], *, source: str) -> None:
    """Load strictly: every tensor of the model, and no other.

    Raises:
        CaptionerError: names what does not fit.
    """
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        reason = "; ".join(line.strip() for line in str(error).splitlines()[1:4])
        raise CaptionerError(f"the weights in {source} do not fit its config: {reason}") from None
