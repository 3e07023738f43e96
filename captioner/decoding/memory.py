"""The memory that a search needs, estimated before it starts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from captioner.devices import available_memory
from captioner.errors import UsageError, parameter

if TYPE_CHECKING:  # captioning with onnxruntime imports neither torch nor pydantic
    import torch

    from captioner.config.schema import DecodingConfig

_BYTES_OF_SCORES = 20
"""Of each token of the vocabulary, for each caption: 32-bit scores and what a step computes from
them. Measured: 12 to 20 for beam search with few beams, and 18 for sampling."""

_BYTES_OF_CANDIDATE = 32
"""Of each candidate of a beam: two 32-bit scores, two 64-bit numbers, and a copy of some."""

_BYTES_OF_TOKEN = 32
"""Of each token so far, for each caption: its id (twice), its score and its random number."""

SHARE = 0.5
"""Largest part of the available memory that a search may take: the model needs the rest."""


def check_search_memory(
    config: DecodingConfig,
    *,
    vocab_size: int,
    batch_size: int,
    device: torch.device | None,
    source_bytes: int = 0,
) -> None:
    """Raise an error if the captions that are searched for at a time do not fit into the memory.

    Args:
        config: how captions are searched for.
        vocab_size: words of the model.
        batch_size: sources that are processed at a time.
        device: where; None: on the CPU.
        source_bytes: what each of them takes without its captions.

    Raises:
        UsageError: names the settings that set how many there are.
    """
    available = available_memory(device)
    needed = batch_size * (source_bytes + _bytes_of_captions(config, vocab_size))
    if available is None or needed <= SHARE * available:
        return
    from_captions = config.method == "sample" or config.captions > config.beam
    settings = {
        "captions" if from_captions else "beam": config.captions if from_captions else config.beam,
    }
    if batch_size > 1:
        settings["batch_size"] = batch_size
    if config.max_length * _BYTES_OF_TOKEN > vocab_size * _BYTES_OF_SCORES:
        settings["max_length"] = config.max_length
    given = ", ".join(f"{parameter(name)}={_short(value)}" for name, value in settings.items())
    raise UsageError(
        f"{given}: for {vocab_size:,} words the search needs about {_size(needed)} of memory, more "
        f"than half of the {_size(available)} that are available: "
        f"lower {' or '.join(map(parameter, settings))}"
    )


def _bytes_of_captions(config: DecodingConfig, vocab_size: int) -> int:
    """Return the bytes that the search for the captions of one source takes at its peak."""
    if config.method == "sample":
        rows, candidates = config.captions, 0
    else:
        slots = -(-max(config.beam, config.captions) // config.groups)
        rows, candidates = slots * config.groups, min(slots, vocab_size)
    history = config.max_length * _BYTES_OF_TOKEN
    return rows * (vocab_size * _BYTES_OF_SCORES + candidates * _BYTES_OF_CANDIDATE + history)


def _size(size: int) -> str:
    return f"{_short(size // 10**9)} GB" if size >= 10**9 else f"{size // 10**6} MB"


def _short(number: int) -> str:
    """Return a number with few digits."""
    return str(number) if number < 10**9 else f"{number:.0e}"
