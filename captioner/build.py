"""From words in a config to objects: the only place that chooses a part by its name."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import Tensor

from captioner.config import DecodingConfig, ModelConfig
from captioner.decoding.beam import beam_search
from captioner.decoding.constraints import forbid
from captioner.decoding.greedy import greedy
from captioner.errors import CaptionerError
from captioner.models.captioning import CaptioningModel
from captioner.models.decoder import RecurrentDecoder
from captioner.models.encoder import ImageEncoder
from captioner.text.vocabulary import BOS, EOS, PAD, UNK
from captioner.types import Hypothesis, Memory

Search = Callable[[Memory], list[list[Hypothesis]]]
"""From what was seen to the captions of each image, the best first."""


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


def build_search(model: CaptioningModel, config: DecodingConfig) -> Search:
    """Greedy or beam search with this model, which never says <unk>, <pad> or <bos>."""
    step = forbid(model.step, [PAD, BOS, UNK])

    def search(memory: Memory) -> list[list[Hypothesis]]:
        state = model.start(memory)
        if config.beam == 1:
            return [[best] for best in greedy(step, state, bos=BOS, eos=EOS, max_length=config.max_length)]
        return beam_search(
            step,
            state,
            bos=BOS,
            eos=EOS,
            max_length=config.max_length,
            beam=config.beam,
            length_alpha=config.length_alpha,
        )

    return search
