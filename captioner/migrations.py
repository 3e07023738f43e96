"""Model folders of older format versions, as they would be written today.

1 → 2: the decoder's recurrent layers became modules of their own; each beyond the first adds its input to its output.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from captioner.errors import CaptionerError

if TYPE_CHECKING:
    from torch import Tensor

FORMAT_VERSION = 2
_ONE_MODULE = re.compile(r"decoder\.rnn\.((?:weight|bias)_\w+_l0)")


def migrate_config(values: dict[str, Any], version: object, *, source: object) -> dict[str, Any]:
    """Give the config of a folder of any version.

    Raises:
        CaptionerError: it is of a version that this program does not know, or has no counterpart in the present one.
    """
    if version == FORMAT_VERSION:
        return values
    told = f"{source} has format version {version}, this captioner reads 1 to {FORMAT_VERSION}"
    if version != 1:
        newer = isinstance(version, int) and version > FORMAT_VERSION
        raise CaptionerError(f"{told}: {'upgrade captioner' if newer else 'copy the whole folder again'}")
    decoder, decoding = values.get("decoder"), values.get("decoding")
    if isinstance(decoder, dict) and decoder.get("layers", 1) != 1:
        raise CaptionerError(f"{told}, but not its decoder of several layers, which worked otherwise: train it anew")
    if isinstance(decoding, dict) and "length_norm" not in decoding:  # the rule it ranked by is no more
        decoding.pop("length_alpha", None)
    return values


def migrate_weights(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Give the weights their present names; those that have them already keep them."""
    return {_ONE_MODULE.sub(r"decoder.rnn.layers.0.\1", name): tensor for name, tensor in state.items()}
