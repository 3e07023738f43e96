"""`captioner defaults`: show or change the decoding settings of a model folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from captioner.cli.options import ModelOption, check_may_change, load_captioner, load_translator
from captioner.config.loading import apply_overrides
from captioner.config.schema import INFERENCE, DecodingConfig, ModelConfig
from captioner.errors import UsageError
from captioner.models.folder import first_decoding, read_config, resolve, write_config

EXAMPLE = "captioner defaults --model runs/first/best beam=5 length_alpha=0.7"


def defaults(
    settings: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[KEY=VALUE]...", help="Settings to change; none: show.", show_default=False
        ),
    ] = None,
    model: ModelOption = None,
    reset: Annotated[
        bool,
        typer.Option(
            "--reset",
            help="Put back what the folder had before its first change; where that is not known, "
            "the program's own settings.",
        ),
    ] = False,
) -> None:
    """Show or change a model folder's decoding settings.

    New settings are checked as a run with them would be, with this model and on this machine.
    """
    if settings or reset:
        check_may_change(model)
    folder = resolve(model)
    config = ModelConfig.parse(read_config(folder), source=str(folder))
    start = first_decoding(folder) or DecodingConfig() if reset else config.decoding
    values = apply_overrides(start.to_json(), settings or [])
    decoding = DecodingConfig.parse(values, source="decoding")
    if settings or reset:
        # the whole config is checked: some settings need attention, or images
        changed = ModelConfig.parse(
            {**config.to_json(), "decoding": decoding.to_json()}, source=str(folder)
        )
        _try(folder, decoding, reads=config.encoder.kind)
        write_config(folder, changed)
    for name, value in decoding.to_json().items():
        typer.echo(f"{name}={json.dumps(value)}")


def _try(folder: Path, decoding: DecodingConfig, *, reads: str) -> None:
    """Begin a run with the settings.

    Raises:
        UsageError: names the setting, as `key=value` does and not as an option, that does not work.
    """
    try:
        if reads == "text":
            load_translator([folder], INFERENCE).stream([], decoding=decoding)
        else:
            load_captioner([folder], INFERENCE).stream([], decoding=decoding)
    except UsageError as error:
        raise UsageError(str(error)) from None  # without the marks that stand for options
