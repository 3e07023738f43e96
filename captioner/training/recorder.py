"""The files that a run writes: the log of its metrics, the best model, checkpoints and pictures."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from captioner.config.schema import TrainingConfig
from captioner.console import console, progress_bar
from captioner.data.datasets import Example
from captioner.data.loading import Loader
from captioner.distributed import Ranks
from captioner.storage import atomic_folder, check_space, folder_size
from captioner.training.checkpoint import (
    Progress,
    TrainingState,
    checkpoints,
    get_rng_states,
    save_checkpoint,
)
from captioner.training.losses import LossSum
from captioner.training.objectives import ObjectiveOutput
from captioner.training.optim import EMA
from captioner.training.validation import Validation, Validator

SAMPLES = 12  # images in samples.png


class RunLog:
    """Metrics of a run as JSON lines, and as TensorBoard events if tensorboard is installed."""

    def __init__(self, folder: Path, *, size: int = 0) -> None:
        """Open metrics.jsonl, cut to `size` bytes: a resumed run writes the later lines again."""
        folder.mkdir(parents=True, exist_ok=True)
        # Line-buffered, so that the file can be followed.
        self._file = (folder / "metrics.jsonl").open("a", encoding="utf-8", buffering=1)
        self._file.truncate(min(size, os.fstat(self._file.fileno()).st_size))
        self._file.seek(0, os.SEEK_END)
        self._events: Any = None
        if find_spec("tensorboard"):
            from torch.utils.tensorboard import SummaryWriter

            self._events = SummaryWriter(str(folder / "events"))

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        """Write the metrics of a step."""
        self._file.write(json.dumps({"step": step, **metrics}) + "\n")
        if self._events:
            for name, value in metrics.items():
                self._events.add_scalar(name, value, step)

    def flush(self) -> int:
        """Write everything to disk, and return the size of metrics.jsonl in bytes."""
        self._file.flush()
        os.fsync(self._file.fileno())
        return self._file.tell()

    def close(self) -> None:
        """Write everything to disk, and close the files."""
        self.flush()
        self._file.close()
        if self._events:
            self._events.close()


class Recorder:
    """Writes the log, the best model and the checkpoints of a run, on the first rank.

    `progress` belongs to the trainer, which counts steps in it.
    """

    def __init__(
        self,
        output: Path,
        settings: TrainingConfig,
        progress: Progress,
        *,
        dev: Sequence[Example],
        validator: Validator,
        average: EMA,
        write_model: Callable[[Path], None],
        ranks: Ranks,
    ) -> None:
        self.output, self.settings, self.progress = output, settings, progress
        self.samples, self.validator = dev[:SAMPLES], validator
        self.average, self.write_model, self.ranks = average, write_model, ranks
        self.log = RunLog(output, size=progress.log_size) if ranks.is_first else None
        self._is_saved = True  # whether the newest checkpoint holds all of `progress`
        self._epoch_loss: LossSum | None = None
        # Training captions since the last validation, and the time at which their count began.
        self._captions, self._start = 0, time.monotonic()
        self._bar = progress_bar("batches")
        self._task = self._bar.add_task("", note="")

    def check_space(self, learning: Iterable[torch.nn.Parameter]) -> None:
        """Check that the disk has room for the checkpoints and the best model.

        Args:
            learning: the weights of which the optimizer will keep two moments.

        Raises:
            CaptionerError: the free space does not suffice.
        """
        model = sum(tensor.nbytes for tensor in self.average.module.state_dict().values())
        moments = 2 * sum(weight.nbytes for weight in learning)
        average = sum(tensor.nbytes for tensor in self.average.average.values())
        checkpoint, keep = model + moments + average, self.settings.keep_checkpoints
        existing = (*checkpoints(self.output), self.output / "best")
        # A new checkpoint or best model is written before the old one is removed.
        check_space(
            self.output,
            (keep + 1) * checkpoint + 2 * model - sum(map(folder_size, existing)),
            what=f"{keep} checkpoints and the best model, each written before an old one goes,",
            hint="lower training.keep_checkpoints",
        )

    def close(self) -> None:
        """Close the log."""
        if self.log:
            self.log.close()

    @contextmanager
    def epoch(self, epochs: int, batches: int) -> Iterator[None]:
        """Show a progress bar within the block: one epoch of `epochs`, with `batches` batches."""
        of_phase = f" of phase {self.progress.phase + 1}" if len(self.settings.phases) > 1 else ""
        name = f"epoch {self.progress.epoch + 1}/{epochs}{of_phase}"
        self._bar.reset(
            self._task, description=name, total=batches, completed=self.progress.batch, note=""
        )
        self._epoch_loss = None
        self._captions, self._start = 0, time.monotonic()
        with self._bar:
            yield

    def step(self, output: ObjectiveOutput, *, captions: int, learning_rate: float) -> None:
        """Write the metrics of a step that was taken on so many captions."""
        loss, metrics = output.loss, {"learning_rate": learning_rate, **output.metrics}
        self._is_saved = False
        self._epoch_loss = loss if self._epoch_loss is None else self._epoch_loss + loss
        self._captions += captions
        if self.log:
            self.log.write(self.progress.step, {"loss": loss.mean, **metrics})
        shown = "".join(f"  {name} {value:.3g}" for name, value in metrics.items())
        self._bar.update(
            self._task, completed=self.progress.batch, note=f"loss {loss.mean:.3f}{shown}"
        )

    def validate(self, loader: Loader, *, stop: Callable[[], bool]) -> bool:
        """Validate, and keep the model if it is the best so far.

        Returns:
            False if `stop` returned True meanwhile; the validation is then discarded.
        """
        captions, seconds = self._captions, time.monotonic() - self._start
        with self.average.applied():
            result = self.validator(loader, stop=stop)
        if result is None:
            return False
        is_best = self.progress.add_validation(result.scores.metrics["CIDEr"])
        self._is_saved = False
        if self.log:
            self.log.write(self.progress.step, result.metrics)
            self.log.flush()
            self._print(result, speed=captions / seconds, is_best=is_best)
            self._draw(result)
            if is_best:
                with atomic_folder(self.output / "best") as folder, self.average.applied():
                    self.write_model(folder)
        self._captions, self._start = 0, time.monotonic()
        return True

    def _print(self, result: Validation, *, speed: float, is_best: bool) -> None:
        loss = f"loss {self._epoch_loss.mean:.3f}  " if self._epoch_loss else ""
        trained = f"  {speed:.0f} captions/s" if speed else ""
        best = "  (best)" if is_best else ""
        console.print(f"step {self.progress.step}  {loss}{result}{trained}{best}")

    def _draw(self, result: Validation) -> None:
        from captioner.training.plots import draw_curves, draw_samples

        draw_curves(self.output)
        draw_samples(self.output / "samples.png", self.samples, result.captions)

    def checkpoint(self, optimizer: torch.optim.Optimizer) -> None:
        """Save a checkpoint, unless the newest one is up to date."""
        if self._is_saved:
            return
        rng_states = self.ranks.gather(get_rng_states(self.ranks.device))
        if self.log:
            self.progress.log_size = self.log.flush()
            state = TrainingState(
                self.progress, optimizer.state_dict(), self.average.state_dict(), rng_states
            )
            save_checkpoint(
                self.output,
                state,
                write_model=self.write_model,
                keep=self.settings.keep_checkpoints,
            )
        self._is_saved = True
        self.ranks.wait()
