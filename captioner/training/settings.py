"""The settings of a run, from a config file, the command line and `init`. Does not import torch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from captioner.config.loading import apply_overrides, merge, parse, read_yaml
from captioner.config.schema import Config
from captioner.models.folder import read_config, resolve


def load_config(
    path: str | Path, overrides: Sequence[str] = (), *, output: str | Path | None = None
) -> Config:
    """Return the settings of a config file, with `overrides` applied.

    If `init` names a model folder, its settings are the defaults of the model.

    Args:
        path: a YAML file.
        overrides: "key=value" pairs, such as "training.batch_size=32"; the last one wins.
        output: folder of the run, in place of the file's.

    Raises:
        UsageError: the settings have mistakes; all are listed.
    """
    values = apply_overrides(read_yaml(Path(path)), overrides)
    if output is not None:
        values["output"] = str(output)
    if isinstance(values.get("init"), str):
        values = merge(_model_settings(values["init"]), values)
    return parse(Config, values, source=str(path))


def _model_settings(folder: str) -> dict[str, Any]:
    settings = read_config(resolve(folder))
    settings.pop("vocabulary", None)
    return settings
