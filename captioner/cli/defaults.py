"""Show or change how a model folder's captions are found."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from captioner.config.loading import apply_overrides, parse, to_json
from captioner.config.schema import DecodingConfig, ModelConfig
from captioner.models.folder import read_config, resolve, write_config


def change_defaults(model: Path | None, settings: Sequence[str]) -> DecodingConfig:
    """Lay `key=value` settings over the folder's own, keep them there, and give what then holds.

    Raises:
        CaptionerError: the folder is broken, or cannot be written.
        UsageError: lists every mistake in the settings; nothing was changed.
    """
    folder = resolve(model)
    values = read_config(folder)
    values.pop("vocabulary", None)
    config = parse(ModelConfig, values, source=str(folder))
    decoding = parse(
        DecodingConfig, apply_overrides(to_json(config.decoding), settings), source="decoding"
    )
    if settings:
        write_config(folder, config.model_copy(update={"decoding": decoding}))
    return decoding
