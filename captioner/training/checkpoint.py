"""Checkpoints of a run: a model folder, and beside it the state of the training."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch

from captioner.errors import CaptionerError, UsageError
from captioner.storage import atomic_folder, verify_checksums

_STATE = "training.pt"
_NAME = re.compile(r"checkpoint-(\d+)")

# Keys of training.pt that differ from the names of the fields in `Progress`.
_KEYS = {
    "best_score": "best",
    "validations_since_best": "worse",
    "validated_step": "validated",
    "micro_batches": "parts",
}


@dataclass
class Progress:
    """The position of a run, and the results of its validations."""

    phase: int = 0
    epoch: int = 0  # of the phase
    batch: int = 0  # of the epoch
    step: int = 0  # of the run
    best_score: float = -1.0  # the best score of a validation
    validations_since_best: int = 0
    validated_step: int = 0  # the step of the last validation
    micro_batches: int = 1  # of each batch, where training.accumulate is auto
    log_size: int = 0  # bytes of metrics.jsonl

    def start_next_phase(self) -> None:
        """Move to the first step of the next phase."""
        self.phase, self.micro_batches = self.phase + 1, 1
        self.epoch = self.batch = self.validations_since_best = 0

    def add_validation(self, score: float) -> bool:
        """Record a validation of the current step, and return whether its score is the best."""
        is_best = score > self.best_score
        self.best_score = max(score, self.best_score)
        self.validations_since_best = 0 if is_best else self.validations_since_best + 1
        self.validated_step = self.step
        return is_best


class TrainingState(NamedTuple):
    """All that a checkpoint holds besides the model."""

    progress: Progress
    optimizer: dict[str, Any]  # state dict
    average: dict[str, Any]  # state dict of the EMA
    rng_states: list[list[torch.Tensor]]  # of each rank
    provenance: Mapping[str, Any] = {}  # a `Provenance`; empty in older checkpoints


def save_checkpoint(
    output: Path, state: TrainingState, *, write_model: Callable[[Path], None], keep: int
) -> None:
    """Write the folder `checkpoint-<step>`, then remove all checkpoints but the newest `keep`.

    Checkpoints of later steps are removed too. They are corrupt, or the run was resumed from an
    earlier one.
    """
    step = state.progress.step
    with atomic_folder(output / f"checkpoint-{step}") as folder:
        write_model(folder)
        _save(state, folder / _STATE)
    existing = checkpoints(output)
    kept = [path for path in existing if _step(path) <= step][-keep:]
    for path in set(existing).difference(kept):
        shutil.rmtree(path, ignore_errors=True)


def _save(state: TrainingState, path: Path) -> None:
    content = {
        "progress": {_KEYS.get(key, key): value for key, value in asdict(state.progress).items()},
        "optimizer": state.optimizer,
        "average": state.average,
        "random": state.rng_states,
        "provenance": dict(state.provenance),
    }
    with path.open("wb") as file:
        try:
            torch.save(content, file)
        except RuntimeError as error:
            # On a full disk, torch raises this error about a wrong number of bytes.
            raise error.__context__ if isinstance(error.__context__, OSError) else error from None


def checkpoints(output: Path) -> list[Path]:
    """Return the checkpoints of a run, the oldest first."""
    return sorted(
        (path for path in output.glob("checkpoint-*") if _NAME.fullmatch(path.name)), key=_step
    )


def _step(checkpoint: Path) -> int:
    return int(checkpoint.name.removeprefix("checkpoint-"))


def resume_hint(output: Path) -> str:
    """Return the advice for messages about a run that stopped: from where to resume it."""
    saved = checkpoints(output)
    return f"resume from {saved[-1].name}" if saved else "there is no checkpoint yet: start again"


def find_checkpoint(output: Path, resume: str, warn: Callable[[str], None]) -> Path | None:
    """Return the checkpoint to resume from, with its checksums verified.

    `resume` is a path, or `auto` for the newest checkpoint of `output` that is not corrupt (None if
    there is none). `warn` is called with a message about each corrupt one.

    Raises:
        UsageError: the path is not a checkpoint.
        CaptionerError: the checkpoint at the path is corrupt.
    """
    if resume != "auto":
        return _checkpoint_at(Path(resume))
    for path in reversed(checkpoints(output)):
        try:
            verify_checksums(path)
            return path
        except CaptionerError as error:
            warn(f"{error}; trying the previous checkpoint")
    return None


def _checkpoint_at(path: Path) -> Path:
    if not (path / _STATE).is_file():
        inside = ", ".join(checkpoint.name for checkpoint in checkpoints(path))
        hint = f"it contains {inside}" if inside else "name a checkpoint-<step> folder"
        raise UsageError(f"cannot resume from {path}: this is not a checkpoint ({hint})")
    verify_checksums(path)
    return path


def load_checkpoint(folder: Path) -> TrainingState:
    """Read the state of the training. Executes no code of the file.

    Raises:
        CaptionerError: the file holds something else, such as a pickle that would run code.
    """
    try:
        content = torch.load(folder / _STATE, map_location="cpu", weights_only=True)
        names = {key: name for name, key in _KEYS.items()}
        progress = {names.get(key, key): value for key, value in content["progress"].items()}
        return TrainingState(
            Progress(**progress),
            content["optimizer"],
            content["average"],
            content["random"],
            content.get("provenance", {}),
        )
    except Exception as error:  # torch.load does not document what it raises for a foreign file
        reason = " ".join(str(error).split())[:200]
        raise CaptionerError(
            f"{folder / _STATE} is not the state of a training that this version reads ({reason}), "
            "and nothing in it was executed: start a new run from the model beside it, with "
            f"init={folder}"
        ) from error


def get_rng_states(device: torch.device) -> list[torch.Tensor]:
    """Return the states of torch's random number generators: of the CPU, and of a GPU in use."""
    states = [torch.get_rng_state()]
    return [*states, torch.cuda.get_rng_state(device)] if device.type == "cuda" else states


def set_rng_states(states: list[torch.Tensor], device: torch.device) -> None:
    """Set what `get_rng_states` returned. A run that moves to a GPU keeps the state of the GPU."""
    torch.set_rng_state(states[0])
    if device.type == "cuda" and len(states) > 1:
        torch.cuda.set_rng_state(states[1], device)
