"""Train a captioner from a config."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
import yaml

from captioner.config.loading import to_json
from captioner.config.schema import Config, DeviceName
from captioner.console import console
from captioner.data.datasets import Example
from captioner.data.splits import load_splits, without_unreadable
from captioner.decoding.search import build_search
from captioner.devices import pick_device
from captioner.distributed import Ranks, process_group
from captioner.errors import UsageError
from captioner.models.build import start_model
from captioner.models.encoder_decoder import EncoderDecoder
from captioner.models.folder import write_model
from captioner.storage import new_file, sweep
from captioner.text.vocabulary import Vocabulary
from captioner.training.checkpoint import checkpoints, find_checkpoint, resume_hint
from captioner.training.failures import explained
from captioner.training.trainer import Trainer
from captioner.types import Hypothesis, State


def train(config: Config, *, device: DeviceName = "auto", resume: str | None = None) -> Path:
    """Run the training that `config` describes and return the folder of the best model.

    Args:
        config: see `captioner.config`.
        device: where to compute; under torchrun each rank takes its own GPU.
        resume: `auto` for the newest sound checkpoint of the output folder, if there is one; or a checkpoint's path.

    Raises:
        CaptionerError: what cannot be done, and the way out.
    """
    output = config.output
    with process_group(pick_device(device)) as ranks, explained(output, config.training):
        console.quiet = not ranks.is_first
        if resume is None and checkpoints(output):
            raise UsageError(
                f"{output} already holds a run: go on with --resume auto, or choose another --output"
            )
        train_examples, dev_examples = load_splits(config.data, ranks)
        if ranks.is_first:
            output.mkdir(parents=True, exist_ok=True)
            sweep(output)
        ranks.wait()
        checkpoint = find_checkpoint(output, resume, console.print) if resume else None
        if config.data.on_bad_image == "skip":
            splits = {"train": train_examples, "dev": dev_examples}
            splits = without_unreadable(config, splits, ranks, resumed=checkpoint is not None)
            train_examples, dev_examples = splits["train"], splits["dev"]
        torch.manual_seed(config.training.seed)  # every rank starts from the same weights
        model, vocabulary = start_model(config, train_examples, checkpoint)
        if ranks.is_first:
            with new_file(output / "config.yaml") as file:
                yaml.safe_dump(to_json(config), file, sort_keys=False)
            _introduce(config, ranks, model, vocabulary, train_examples, dev_examples)
        as_validated = {"method": "beam", "captions": 1, "beam": config.training.validation_beam}
        search = build_search(
            model.step, config.decoding.model_copy(update=as_validated), vocabulary
        )

        def best(state: State) -> list[Hypothesis]:
            return [found[0] for found in search(state, ())]

        def write(folder: Path) -> None:
            write_model(
                folder, config=config.model, vocabulary=vocabulary, state=model.state_dict()
            )

        trainer = Trainer(
            config,
            model=model,
            vocabulary=vocabulary,
            train=train_examples,
            dev=dev_examples,
            search=best,
            write_model=write,
            ranks=ranks,
        )
        try:
            trainer.run(checkpoint)
        except KeyboardInterrupt:
            console.print(resume_hint(output))
            raise
        return output / "best"


def _introduce(
    config: Config,
    ranks: Ranks,
    model: EncoderDecoder,
    vocabulary: Vocabulary,
    train_examples: Sequence[Example],
    dev_examples: Sequence[Example],
) -> None:
    captions = sum(len(example.captions) for example in train_examples)
    weights = sum(weight.numel() for weight in model.parameters())
    where = f"{ranks.device}" + (f" x {ranks.count}" if ranks.count > 1 else "")
    console.print(
        f"{len(train_examples)} images with {captions} captions for training, {len(dev_examples)} images for dev, "
        f"{len(vocabulary)} words; {config.encoder.trunk} and {config.decoder.cell}, {weights / 1e6:.1f} M parameters, "
        f"on {where}; into {config.output}"
    )
