"""Train a captioner from a config."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from captioner.config.schema import INFERENCE, Config
from captioner.console import console, quiet_console
from captioner.data.datasets import Example
from captioner.data.splits import drop_unreadable_images, load_splits
from captioner.data.transforms import build_transform
from captioner.devices import DeviceName, pick_device
from captioner.distributed import Ranks, process_group
from captioner.errors import UsageError
from captioner.models.build import start_model
from captioner.storage import recover_from_crash
from captioner.training.checkpoint import checkpoints, find_checkpoint
from captioner.training.failures import explain_failures
from captioner.training.trainer import Trainer


def train(
    config: Config, *, device: DeviceName = INFERENCE.device, resume: str | None = None
) -> Path:
    """Run the training that a config describes, and return the folder of the best model.

    Args:
        config: all settings of the run; see `captioner.config.schema`.
        device: where to compute; under torchrun, each rank takes a GPU of its own.
        resume: `auto` for the newest sound checkpoint of `config.output`, if there is one, or the
            path of a checkpoint. None starts a new run.

    Raises:
        CaptionerError: the training cannot be run or was stopped by a failure.
        Interrupted: Ctrl-C or SIGTERM stopped it, after a checkpoint was saved.
    """
    with (
        process_group(pick_device(device)) as ranks,
        quiet_console(quiet=not ranks.is_first),
        explain_failures(config.output, config.training),
    ):
        checkpoint = _find_start(config.output, resume, ranks)
        train_split, dev_split = _read_splits(config, ranks, resumed=checkpoint is not None)
        torch.manual_seed(config.training.seed)  # the same initial weights on every rank
        model, vocabulary = start_model(config, train_split, checkpoint)
        trainer = Trainer(config, model, vocabulary, train=train_split, dev=dev_split, ranks=ranks)
        trainer.run(checkpoint)
    return config.output / "best"


def _find_start(output: Path, resume: str | None, ranks: Ranks) -> Path | None:
    """Return the checkpoint to start from, or None.

    Raises:
        UsageError: the folder contains a run, and `resume` is None.
    """
    if ranks.is_first:
        recover_from_crash(output)
    ranks.wait()
    if resume is not None:
        return find_checkpoint(output, resume, console.print)
    if checkpoints(output):
        raise UsageError(
            f"{output} already contains a run: continue it with resume='auto', or choose another "
            "output folder",
            parameters=["resume"],
        )
    return None


def _read_splits(
    config: Config, ranks: Ranks, *, resumed: bool
) -> tuple[Sequence[Example], Sequence[Example]]:
    """Return the examples of train and dev, without unreadable images if the config skips them."""
    train_split, dev_split = load_splits(config.data, ranks)
    if ranks.is_first:
        config.output.mkdir(parents=True, exist_ok=True)
    ranks.wait()
    if config.data.on_bad_image == "error":
        return train_split, dev_split
    transform = build_transform(config.encoder.transform, config.encoder.image_size)
    splits = drop_unreadable_images(
        {"train": train_split, "dev": dev_split},
        skipped_file=config.output / "skipped.json",
        min_side=transform.min_side,
        max_share=config.data.bad_images,
        ranks=ranks,
        resumed=resumed,
    )
    return splits["train"], splits["dev"]
