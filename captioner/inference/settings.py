"""Decoding settings of a model folder, with changes, checked. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping

from captioner.config.schema import DecodingConfig, ModelConfig
from captioner.errors import UsageError, parameter
from captioner.runtime.base import Decoding


def parse_decoding(config: ModelConfig, changes: Decoding | None) -> DecodingConfig:
    """Return a model's decoding settings with `changes`; a whole config replaces them.

    Raises:
        UsageError: lists everything that is not valid, or does not fit this kind of model.
    """
    reads = config.encoder.kind
    if isinstance(changes, DecodingConfig):
        settings = changes
    elif not isinstance(changes, Mapping | None):
        raise UsageError(
            f"{parameter('decoding')} is {str(changes)[:40]!r}: give the settings that differ "
            'as in {"beam": 5}, or a DecodingConfig'
        )
    else:
        values = {**config.decoding.to_json(), **(changes or {})}
        settings = DecodingConfig.parse(values, source="decoding")
    if settings.min_confidence and config.confidence is None:
        hint = "a calibrated model, not an ensemble: run captioner calibrate on its folder"
        raise UsageError(
            f"{parameter('min_confidence')} needs "
            + (hint if reads == "image" else "a model of images: leave it out")
        )
    if settings.replace_unknown and reads == "image":
        raise UsageError(
            f"{parameter('replace_unknown')} needs a model that reads text: leave it out"
        )
    return settings
