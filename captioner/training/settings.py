"""The settings of a run: config file, command line, and the model it starts from. Imports no torch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from captioner.config.loading import apply_overrides, merge, parse, read_yaml
from captioner.config.schema import Config
from captioner.models.folder import read_config, resolve


def load_config(path: Path, overrides: Sequence[str] = (), *, output: Path | None = None) -> Config:
    """Read a config file and lay the command line's settings over it.

    With `init`, the model's own settings come from that folder, and the file's are laid over them.

    Raises:
        UsageError: lists every mistake.
    """
    values = apply_overrides(read_yaml(path), overrides)
    if output is not None:
        values["output"] = str(output)
    if isinstance(values.get("init"), str):
        values = merge(_settings_of(values["init"]), values)
    return parse(Config, values, source=str(path))


def _settings_of(folder: str) -> dict[str, Any]:
    about = read_config(resolve(folder))
    about.pop("vocabulary", None)
    return about
