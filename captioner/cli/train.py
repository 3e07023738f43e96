"""`captioner train`: train a model from a config."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from captioner.cli.options import DeviceOption, SettingsArgument
from captioner.config.builtin import builtin_configs
from captioner.config.schema import INFERENCE
from captioner.console import loading
from captioner.devices import check_device_name
from captioner.errors import CaptionerError, UsageError
from captioner.models.folder import load_config

EXAMPLE = "captioner train shapes training.batch_size=32 --output runs/first"


def train(
    config: Annotated[
        Path,
        typer.Argument(
            metavar="CONFIG",
            help="A YAML file; or a config that comes with captioner: "
            f"{', '.join(builtin_configs())}.",
            show_default=False,
        ),
    ],
    settings: SettingsArgument = None,
    resume: Annotated[
        str | None,
        typer.Option(
            metavar="auto|PATH",
            help="Continue from the newest intact checkpoint, or from this one.",
            show_default=False,
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Folder of the run.", show_default="the config's"),
    ] = None,
    device: DeviceOption = INFERENCE.device,
) -> None:
    """Train a captioner, or a translator.

    Prints the folder of the model that is best on dev. Ctrl-C saves a checkpoint first.
    """
    check_device_name(device)
    loaded = load_config(config, settings or [], output=output)
    with loading("PyTorch"):
        from captioner.training.checkpoint import checkpoints
        from captioner.training.train import train as run

    is_first = os.environ.get("RANK", "0") == "0"  # under torchrun, only the first rank prints
    try:
        best = run(loaded, device=device, resume=resume)
    except (KeyboardInterrupt, SystemExit, CaptionerError) as error:
        if is_first and not isinstance(error, UsageError) and checkpoints(loaded.output):
            typer.echo("captioner: resume with --resume auto", err=True)
        raise
    if is_first:
        typer.echo(best)
