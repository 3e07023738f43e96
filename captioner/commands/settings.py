"""The settings of a run: config file, command line, and the model it starts from. Imports no torch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from captioner.config.loading import apply_overrides, merge, parse, read_yaml
from captioner.config.schema import Config, DataConfig, SourceConfig
from captioner.errors import UsageError
from captioner.model_folder import read_config, resolve


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


def split_sources(data: DataConfig) -> dict[str, SourceConfig]:
    """Say where `train` is, and `dev` unless it is to be held out from train.

    Raises:
        UsageError: train is not given.
    """
    if data.shapes:
        folder = data.shapes.folder
        return {
            split: SourceConfig(annotations=folder / f"captions_{split}.json", images=folder / split)
            for split in ("train", "dev")
        }
    if data.train is None:
        raise UsageError("data.train is missing: name its annotations, as in data.train.annotations=captions.jsonl")
    return {"train": data.train, **({"dev": data.dev} if data.dev else {})}
