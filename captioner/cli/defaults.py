"""`captioner defaults`: show or change the decoding settings of a model folder."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from captioner.cli.options import ModelOption
from captioner.config.loading import apply_overrides
from captioner.config.schema import DecodingConfig, ModelConfig
from captioner.models.folder import read_config, resolve, write_config

EXAMPLE = "captioner defaults --model runs/first/best beam=5 length_alpha=0.7"


def defaults(
    settings: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[KEY=VALUE]...", help="Settings to change; none: show.", show_default=False
        ),
    ] = None,
    model: ModelOption = None,
) -> None:
    """Show or change a model folder's decoding settings."""
    folder = resolve(model)
    config = ModelConfig.parse(read_config(folder), source=str(folder))
    values = apply_overrides(config.decoding.to_json(), settings or [])
    decoding = DecodingConfig.parse(values, source="decoding")
    if settings:  # the whole config is checked: some settings need attention, or images
        changed = {**config.to_json(), "decoding": decoding.to_json()}
        write_config(folder, ModelConfig.parse(changed, source=str(folder)))
    for name, value in decoding.to_json().items():
        typer.echo(f"{name}={json.dumps(value)}")
