"""The annotation files that a data section names."""

from __future__ import annotations

from captioner.config.schema import DataConfig, SourceConfig
from captioner.errors import UsageError


def split_sources(data: DataConfig) -> dict[str, SourceConfig]:
    """Return the source of `train`, and of `dev` unless it is held out from train.

    Raises:
        UsageError: train is not set, or a file is missing; the message ends with `data.hint`.
    """
    if data.shapes:
        folder = data.shapes.folder
        return {
            split: SourceConfig(
                annotations=folder / f"captions_{split}.json", images=folder / split
            )
            for split in ("train", "dev")
        }
    if data.train is None:
        raise UsageError(
            "data.train is missing: name its annotations, "
            "as in data.train.annotations=captions.jsonl"
        )
    sources = {"train": data.train, **({"dev": data.dev} if data.dev else {})}
    for split, source in sources.items():
        if data.hint and not source.annotations.exists():
            raise UsageError(
                f"data.{split}.annotations: {source.annotations} does not exist. {data.hint}"
            )
    return sources
