"""The precision of a run: bfloat16 is tried before the first step, not found missing in it."""

from __future__ import annotations

import torch

from captioner.config.run import Config
from captioner.config.schema import ImageEncoderConfig
from captioner.console import console
from captioner.devices import PrecisionName, autocast
from captioner.errors import UsageError
from captioner.models.encoder_decoder import EncoderDecoder
from captioner.text.tokenizer import BOS, EOS, UNK
from captioner.training.failures import is_out_of_memory
from captioner.training.objectives import TeacherForcing
from captioner.training.phase import StepRollback
from captioner.types import Batch

_TEXT_LENGTH = 4  # tokens of a source text of the trial step


def usable_precision(model: EncoderDecoder, config: Config, device: torch.device) -> PrecisionName:
    """Return the precision to train with: `training.precision`, or fp32 if `auto` cannot run.

    Runs forward and backward of a tiny batch in bfloat16 for each choice of trained layers of the
    phases, if that is what the setting means on this device: whether each layer has an
    implementation depends on device, layer and library. All weights, batch norm statistics and
    random states are left as they were.

    Raises:
        UsageError: the setting is bf16, and the device cannot train this model with it; or the
            encoder has no stage that a phase names.
    """
    precision = config.training.precision
    with autocast(device, precision):
        if not torch.is_autocast_enabled(device.type):
            return precision
    rollback = StepRollback(model, device)
    try:
        # which layers run backward depends on the first stage that a phase trains
        for first in dict.fromkeys(phase.finetune_from for phase in config.training.phases):
            model.encoder.finetune(first)
            _take_trial_step(model, _trial_batch(config, device), precision)
    except (RuntimeError, NotImplementedError) as error:
        if is_out_of_memory(error):
            raise
        reason = str(error).partition("\n")[0].partition(". Run workload")[0]
        if precision != "auto":
            raise UsageError(
                f"training.precision={precision} cannot train this model on this {device.type} "
                f"({reason}): set it to auto or fp32"
            ) from error
        console.print(
            f"bfloat16 cannot train this model on this {device.type} ({reason}): using float32",
            markup=False,
        )
        return "fp32"
    finally:
        rollback.restore()
        model.encoder.finetune(None)
    return precision


def _take_trial_step(model: EncoderDecoder, batch: Batch, precision: PrecisionName) -> None:
    device = batch.tokens.device
    with autocast(device, precision):
        output = TeacherForcing(model.train())(batch)
    output.loss.total.backward()


def _trial_batch(config: Config, device: torch.device) -> Batch:
    """Return two sources with a caption of two unknown words each."""
    if isinstance(config.encoder, ImageEncoderConfig):
        size = config.encoder.image_size
        source = torch.zeros((2, 3, size, size), dtype=torch.uint8)
    else:
        source = torch.full((2, _TEXT_LENGTH), UNK)
    tokens = torch.tensor([[BOS, UNK, UNK, EOS]] * 2)
    rows = torch.arange(2)
    return Batch(source, tokens, torch.ones_like(tokens, dtype=torch.bool), rows, rows).to(device)
