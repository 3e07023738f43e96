"""Where a run stands, on disk: a model folder with the states of the optimiser and the average beside it."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from captioner.errors import CaptionerError, UsageError
from captioner.storage import new_folder, verify
from captioner.training.ema import EMA

_STATE = "training.pt"
_NAME = re.compile(r"checkpoint-(\d+)")


@dataclass
class Progress:
    """How far a run has come."""

    phase: int = 0
    epoch: int = 0  # of the phase
    batch: int = 0  # of the epoch
    step: int = 0  # of the run
    best: float = -1.0  # CIDEr-D
    worse: int = 0  # validations since the best one
    validated: int = 0  # the last step that was
    parts: int = 1  # that each batch is worked through in, where memory decides it
    log_size: int = 0  # bytes of metrics.jsonl

    def next_phase(self) -> None:
        """Stand at the beginning of the next one."""
        self.phase, self.parts = self.phase + 1, 1
        self.epoch = self.batch = self.worse = 0


def save_checkpoint(
    output: Path,
    progress: Progress,
    *,
    write_model: Callable[[Path], None],
    optimizer: torch.optim.Optimizer,
    average: EMA,
    random_states: list[list[torch.Tensor]],
    keep: int,
) -> None:
    """Save `checkpoint-<step>/`, and then let go of all but the newest `keep`.

    Those of later steps go too: a run that has gone on from an earlier one has left them, or they were corrupt.
    """
    with new_folder(output / f"checkpoint-{progress.step}") as folder:
        write_model(folder)
        state = {
            "progress": asdict(progress),
            "optimizer": optimizer.state_dict(),
            "average": average.state_dict(),
            "random": random_states,
        }
        _save(state, folder / _STATE)
    there = checkpoints(output)
    kept = [path for path in there if _step(path) <= progress.step][-keep:]
    for path in there:
        if path not in kept:
            shutil.rmtree(path, ignore_errors=True)


def _save(state: dict[str, Any], path: Path) -> None:
    with path.open("wb") as file:
        try:
            torch.save(state, file)
        except RuntimeError as error:  # torch only says that its count of bytes is wrong
            raise error.__context__ if isinstance(error.__context__, OSError) else error from None


def checkpoints(output: Path) -> list[Path]:
    """Every checkpoint of a run, the oldest first."""
    found = [path for path in output.glob("checkpoint-*") if _NAME.fullmatch(path.name)]
    return sorted(found, key=_step)


def _step(checkpoint: Path) -> int:
    return int(checkpoint.name.removeprefix("checkpoint-"))


def resume_hint(output: Path) -> str:
    """Say how to go on with a run that stopped."""
    saved = checkpoints(output)
    return (
        f"go on from {saved[-1].name} with --resume auto"
        if saved
        else "there is no checkpoint yet: start again"
    )


def find_checkpoint(output: Path, resume: str, warn: Callable[[str], None]) -> Path | None:
    """Choose what to go on from: `auto` is the newest sound checkpoint of `output`, if any; else a path.

    Raises:
        CaptionerError: the path is not a checkpoint, or is corrupt.
    """
    if resume != "auto":
        path = Path(resume)
        if not (path / _STATE).is_file():
            there = ", ".join(found.name for found in checkpoints(path)) if path.is_dir() else ""
            hint = (
                f"it holds {there}"
                if there
                else "name a checkpoint-<step> folder, or --resume auto"
            )
            raise UsageError(f"--resume {path}: this is not a checkpoint ({hint})")
        verify(path)
        return path
    for path in reversed(checkpoints(output)):
        try:
            verify(path)
        except CaptionerError as error:
            warn(f"{error}; trying the checkpoint before")
            continue
        return path
    return None


def load_checkpoint(
    folder: Path,
) -> tuple[Progress, dict[str, Any], dict[str, Any], list[list[torch.Tensor]]]:
    """Give where the run stood, the states of its optimiser, its average and every rank's chance. Runs no code.

    Raises:
        CaptionerError: the file holds something else, which a pickle that would run code does.
    """
    try:
        state = torch.load(folder / _STATE, map_location="cpu", weights_only=True)
        return Progress(**state["progress"]), state["optimizer"], state["average"], state["random"]
    except Exception as error:  # what torch.load raises for a foreign file is not documented
        reason = " ".join(str(error).split())[:200]
        raise CaptionerError(
            f"{folder / _STATE} holds no state of a training that this captioner knows ({reason}), and nothing in it "
            f"was executed: start a new run from the model beside it, with init={folder}"
        ) from error


def random_state(device: torch.device) -> list[torch.Tensor]:
    """Give the state of torch's chance: the CPU's, and the GPU's where that is what computes."""
    states = [torch.get_rng_state()]
    return [*states, torch.cuda.get_rng_state(device)] if device.type == "cuda" else states


def restore_random_state(states: list[torch.Tensor], device: torch.device) -> None:
    """Put back what `random_state` gave; a run that has moved to a GPU draws afresh there."""
    torch.set_rng_state(states[0])
    if device.type == "cuda" and len(states) > 1:
        torch.cuda.set_rng_state(states[1], device)
