"""What a run leaves in its folder between two steps: numbers, validations, the best model, checkpoints."""

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
from captioner.storage import check_space, new_folder, size_of
from captioner.training.checkpoint import Progress, checkpoints, random_state, save_checkpoint
from captioner.training.ema import EMA
from captioner.training.losses import LossSum
from captioner.training.plots import draw_curves, draw_samples
from captioner.training.validation import Validator

SAMPLES = 12  # photographs in samples.png


class RunLog:
    """Numbers of a run, a line of JSON each, in the order they came; TensorBoard events where it is installed."""

    def __init__(self, folder: Path, *, size: int = 0) -> None:
        """Go on at byte `size`: what a resumed run will say again is cut off first."""
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        # Buffered by lines, for those who watch.
        self._file = (folder / "metrics.jsonl").open("a", encoding="utf-8", buffering=1)
        self._file.truncate(min(size, os.fstat(self._file.fileno()).st_size))
        self._file.seek(0, os.SEEK_END)
        self._events: Any = None
        if find_spec("tensorboard"):
            from torch.utils.tensorboard import SummaryWriter

            self._events = SummaryWriter(str(folder / "events"))

    def write(self, step: int, **values: float | int) -> None:
        """Note numbers at a step."""
        self._file.write(json.dumps({"step": step, **values}) + "\n")
        if self._events:
            for name, value in values.items():
                self._events.add_scalar(name, value, step)

    def validation(self, step: int, figures: Mapping[str, float]) -> None:
        """Note what a validation found, and draw the curves anew."""
        self.write(step, **figures)
        self.flush()
        draw_curves(self.folder)

    def flush(self) -> int:
        """Put everything on disk and say how many bytes that is."""
        self._file.flush()
        os.fsync(self._file.fileno())
        return self._file.tell()

    def close(self) -> None:
        """Put everything on disk for good."""
        self.flush()
        self._file.close()
        if self._events:
            self._events.close()


class Recorder:
    """Write down how a run goes; the first rank does, for all. `progress` is what the trainer counts in."""

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
        self.saved = progress.step  # the last step that a checkpoint knows all about
        self.log = RunLog(output, size=progress.log_size) if ranks.is_first else None

    def check_space(self, learning: Iterable[torch.nn.Parameter]) -> None:
        """Make sure that checkpoints, with two moments of all that is learning, and the best model will find room.

        Raises:
            CaptionerError: they will not.
        """
        model = sum(tensor.nbytes for tensor in self.average.module.state_dict().values())
        moments = 2 * sum(weight.nbytes for weight in learning)
        average = sum(tensor.nbytes for tensor in self.average.average.values())
        checkpoint, keep = model + moments + average, self.settings.keep_checkpoints
        there = sum(size_of(folder) for folder in (*checkpoints(self.output), self.output / "best"))
        check_space(  # the newest is written before the oldest goes, and so is the best
            self.output,
            (keep + 1) * checkpoint + 2 * model - there,
            what=f"{keep} checkpoints and the best model, each written before an old one goes,",
            way_out="lower training.keep_checkpoints",
        )

    def close(self) -> None:
        """Put the log on disk for good."""
        if self.log:
            self.log.close()

    @contextmanager
    def epoch(self, epochs: int, batches: int) -> Iterator[None]:
        """Show a bar for as long as one of so many epochs lasts, and so many batches."""
        of_phase = f" of phase {self.progress.phase + 1}" if len(self.settings.phases) > 1 else ""
        name = f"epoch {self.progress.epoch + 1}/{epochs}{of_phase}"
        self.loss: LossSum | None = None
        self.captions, self.start = 0, time.monotonic()
        with progress_bar("batches") as self.bar:
            self.task = self.bar.add_task(
                name, total=batches, completed=self.progress.batch, note=""
            )
            yield

    def step(self, loss: LossSum, *, captions: int, **figures: float) -> None:
        """Note a step that was taken, with so many captions, and what else there is to say of it."""
        self.loss = loss if self.loss is None else self.loss + loss
        self.captions += captions
        if self.log:
            self.log.write(self.progress.step, loss=loss.mean, **figures)
        noted = "".join(f"  {name} {value:.3g}" for name, value in figures.items())
        self.bar.update(
            self.task, completed=self.progress.batch, note=f"loss {loss.mean:.3f}{noted}"
        )

    def validate(self, loader: Loader, *, stop: Callable[[], bool]) -> bool:
        """Validate, keep the model if it is the best yet, and say True; or False, if `stop` came true meanwhile."""
        speed = self.captions / (time.monotonic() - self.start)
        with self.average.applied():
            result = self.validator(loader, stop=stop)
        if result is None:
            return False
        cider, progress = result.scores.figures["CIDEr"], self.progress
        better = cider > progress.best
        progress.best, progress.worse = (
            max(cider, progress.best),
            0 if better else progress.worse + 1,
        )
        progress.validated, self.saved = progress.step, -1
        if self.log:
            self.log.validation(progress.step, result.figures)
            loss = f"loss {self.loss.mean:.3f}  " if self.loss else ""
            best = "  (best)" if better else ""
            console.print(f"step {progress.step}  {loss}{result}  {speed:.0f} captions/s{best}")
            draw_samples(self.output / "samples.png", self.samples, result.captions)
            if better:
                with new_folder(self.output / "best") as folder, self.average.applied():
                    self.write_model(folder)
        self.captions, self.start = 0, time.monotonic()  # a validation is no time of training
        return True

    def checkpoint(self, optimizer: torch.optim.Optimizer) -> None:
        """Save where the run stands, unless that is done."""
        if self.saved == self.progress.step:
            return
        random_states = self.ranks.gather(random_state(self.ranks.device))
        if self.log:
            self.progress.log_size = self.log.flush()
            save_checkpoint(
                self.output,
                self.progress,
                write_model=self.write_model,
                optimizer=optimizer,
                average=self.average,
                random_states=random_states,
                keep=self.settings.keep_checkpoints,
            )
        self.saved = self.progress.step
        self.ranks.wait()
