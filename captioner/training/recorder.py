"""The files that a run writes: the log of its metrics, the best model, checkpoints and pictures."""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageDraw, ImageFont, ImageOps

from captioner.config.schema import ObjectiveName
from captioner.config.training import TrainingConfig
from captioner.console import console, one_line
from captioner.data.batching import Loader
from captioner.data.datasets import Example
from captioner.data.images import read_image
from captioner.data.parallel import Pair
from captioner.data.splits import ExampleSet, SourceExample
from captioner.distributed import Ranks
from captioner.progress import progress_bar
from captioner.storage import (
    atomic_binary_file,
    atomic_file,
    atomic_folder,
    check_space,
    folder_size,
)
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

_LOSSES: Mapping[ObjectiveName, str] = {
    "teacher_forcing": "loss",
    "scheduled_sampling": "loss after own words",  # a share of them
    "free_running": "free-running loss",
    "self_critical": "self-critical loss",
}
SAMPLES = 12  # images in samples.png
_SIDE, _TEXT, _MARGIN, _LINE = 220, 84, 10, 17  # pixels of samples.png
_WIDTH, _HEIGHT = _SIDE + _MARGIN, _SIDE + _TEXT + _MARGIN  # of a cell of samples.png


def read_log(folder: Path) -> list[dict[str, Any]]:
    """Return the lines of a run's metrics.jsonl."""
    lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


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
            try:
                from torch.utils.tensorboard import SummaryWriter
            except Exception as error:  # a broken installation raises what it likes
                _tell_missing("events", "tensorboard", str(error))
            else:
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

    `progress` is shared with the `Phase`, which counts steps in it.
    """

    def __init__(
        self,
        output: Path,
        settings: TrainingConfig,
        progress: Progress,
        *,
        dev: Sequence[ExampleSet],
        validator: Validator,
        average: EMA,
        write_model: Callable[[Path], None],
        provenance: Mapping[str, Any],
        ranks: Ranks,
    ) -> None:
        self.output, self.settings, self.progress = output, settings, progress
        self.dev, self.validator = dev, validator
        self._noun = "targets" if isinstance(dev[0].examples[0], Pair) else "captions"
        self.average, self.write_model, self.ranks = average, write_model, ranks
        self.provenance = provenance  # of the checkpoints
        self.log = RunLog(output, size=progress.log_size) if ranks.is_first else None
        self._is_saved = True  # whether the newest checkpoint holds all of `progress`
        self._epoch_loss: LossSum | None = None
        self._objective: ObjectiveName = "teacher_forcing"  # of the epoch's steps
        # Training captions since the last validation, and the time at which their count began.
        self._captions, self._start = 0, time.monotonic()
        self._bar = progress_bar("batches")
        self._task = self._bar.add_task("", note="")

    def check_space(self, trainable: Iterable[torch.nn.Parameter]) -> None:
        """Check that the disk has room for the checkpoints and the best model.

        The optimizer will keep two moments of the `trainable` weights.

        Raises:
            CaptionerError: the free space does not suffice.
        """
        model = sum(tensor.nbytes for tensor in self.average.module.state_dict().values())
        moments = 2 * sum(weight.nbytes for weight in trainable)
        average = sum(tensor.nbytes for tensor in self.average.average.values())
        checkpoint, keep = model + moments + average, self.settings.keep_checkpoints
        existing = (*checkpoints(self.output), self.output / "best")
        # A new checkpoint or best model is written before the old one is removed.
        check_space(
            self.output,
            (keep + 1) * checkpoint + 2 * model - sum(map(folder_size, existing)),
            what=f"{keep} checkpoints and the best model, and a copy while one is replaced,",
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

    def step(
        self,
        output: ObjectiveOutput,
        *,
        objective: ObjectiveName,
        captions: int,
        learning_rate: float,
    ) -> None:
        """Write the metrics of a step; `captions` is the number of captions in its batch."""
        loss, metrics = output.loss, {"learning_rate": learning_rate, **output.metrics}
        self._objective = objective
        self._is_saved = False
        self._epoch_loss = loss if self._epoch_loss is None else self._epoch_loss + loss
        self._captions += captions
        if self.log:
            # the reward's loss is no cross-entropy, and has no place in its curve
            name = "self_critical_loss" if objective == "self_critical" else "loss"
            self.log.write(self.progress.step, {**loss_parts(loss, name), **metrics})
        shown = "".join(f"  {name} {value:.3g}" for name, value in metrics.items())
        self._bar.update(
            self._task,
            completed=self.progress.batch,
            note=f"{describe_loss(loss, objective)}{shown}",
        )

    def validate(self, loader: Loader, *, stop: Callable[[], bool]) -> bool:
        """Validate, and keep the best model. Return False if `stop` returned True meanwhile."""
        speed = self._captions / (time.monotonic() - self._start)
        with self.average.applied():
            result = self.validator(loader, stop=stop)
        if result is None:
            return False
        is_best = self.progress.add_validation(result.score(self.settings.select_by))
        self._is_saved = False
        if self.log:
            self.log.write(self.progress.step, result.metrics)
            self.log.flush()
            self._print(result, speed=speed, is_best=is_best)
            draw_curves(self.output)
            self._save_samples(result.captions)
            if is_best:
                with atomic_folder(self.output / "best") as folder, self.average.applied():
                    self.write_model(folder)
        self._captions, self._start = 0, time.monotonic()
        return True

    def _save_samples(self, captions: Sequence[str]) -> None:
        """Show the first examples of each source of dev, equally many of each."""
        per_source, first = -(-SAMPLES // len(self.dev)), 0
        examples: list[SourceExample] = []
        shown: list[str] = []
        for source in self.dev:
            chosen = source.examples[:per_source]
            examples += chosen
            shown += captions[first : first + len(chosen)]
            first += len(source.examples)
        images = [example for example in examples if isinstance(example, Example)]
        pairs = [example for example in examples if isinstance(example, Pair)]
        if images:
            draw_samples(self.output / "samples.png", images, shown)
        else:
            write_samples(self.output / "samples.txt", pairs, shown)

    def _print(self, result: Validation, *, speed: float, is_best: bool) -> None:
        loss = ""
        if self._epoch_loss:
            loss = f"{describe_loss(self._epoch_loss, self._objective)}  "
        trained = f"  {speed:.0f} {self._noun}/s" if speed else ""
        best = "  (best)" if is_best else ""
        console.print(f"step {self.progress.step}  {loss}{result}{trained}{best}")

    def checkpoint(self, optimizer: torch.optim.Optimizer) -> None:
        """Save a checkpoint, unless the newest one is up to date."""
        if self._is_saved:
            return
        rng_states = self.ranks.gather(get_rng_states(self.ranks.device))
        if self.log:
            self.progress.log_size = self.log.flush()
            state = TrainingState(
                self.progress,
                optimizer.state_dict(),
                self.average.state_dict(),
                rng_states,
                self.provenance,
            )
            save_checkpoint(
                self.output,
                state,
                write_model=self.write_model,
                keep=self.settings.keep_checkpoints,
            )
        self._is_saved = True
        self.ranks.wait()


def loss_parts(loss: LossSum, name: str = "loss") -> dict[str, float]:
    """Return the mean of a loss without its penalties, as validation has it, and each penalty."""
    penalties = {key: float(value / loss.count) for key, value in loss.penalties.items()}
    return {name: loss.mean - sum(penalties.values()), **penalties}


def describe_loss(loss: LossSum, objective: ObjectiveName) -> str:
    """Return a training loss for the console: "loss 3.620 (+ attention penalty 8.70)".

    The first number is what the dev loss is: nats per token of the references after their true
    words. The losses of objectives with other inputs or targets have another name.
    """
    own, *penalties = loss_parts(loss).items()
    added = ", ".join(
        f"{'-' if value < 0 else '+'} {name.replace('_', ' ')} {abs(value):.3g}"
        for name, value in penalties
    )
    return f"{_LOSSES[objective]} {own[1]:.3f}" + (f" ({added})" if added else "")


def draw_curves(folder: Path) -> None:
    """Draw curves.png from metrics.jsonl: losses of train and dev, and scores by step.

    Where matplotlib cannot be imported, nothing is drawn, and a line says so.
    """
    # without a writable home folder it would tell at length which other folder it uses
    logging.getLogger("matplotlib").setLevel(logging.ERROR)
    try:
        from matplotlib.figure import Figure
    except Exception as error:  # a broken installation raises what it likes
        _tell_missing("curves.png", "matplotlib", str(error))
        return
    lines = read_log(folder)
    figure = Figure(figsize=(10, 4), layout="constrained")
    losses, scores = figure.subplots(1, 2)
    for axes, title, names in (
        (losses, "loss per word (natural logarithm)", ("loss", "dev_loss", "free_running_loss")),
        (scores, "scores of what is generated for dev (fractions)", ("Bleu_4", "CIDEr", "exact")),
    ):
        for name in (*names, *_of_sources(lines, names)):
            points = [(line["step"], line[name]) for line in lines if name in line]
            if points:
                steps, values = zip(*points, strict=True)
                marker = "" if name == "loss" else "o"
                axes.plot(steps, values, marker=marker, markersize=3, linewidth=1, label=name)
        axes.set(xlabel="step", title=title)
        axes.grid(alpha=0.3)
        axes.legend()
    with atomic_binary_file(folder / "curves.png") as file:
        figure.savefig(file, dpi=110, format="png")


@cache
def _tell_missing(file: str, package: str, reason: str) -> None:
    """Say once which file of a run is missing, and why."""
    console.print(
        f"{file} is not written, because {package} cannot be imported ({one_line(reason)}): "
        f"pip install --upgrade {package}",
        markup=False,
    )


def _of_sources(lines: Sequence[Mapping[str, Any]], metrics: Collection[str]) -> list[str]:
    """Return the names of the metrics of single sources, such as "CIDEr/NAME"."""
    names = dict.fromkeys(name for line in lines for name in line)
    return [name for name in names if "/" in name and name.partition("/")[0] in metrics]


def write_samples(path: Path, pairs: Sequence[Pair], outputs: Sequence[str]) -> None:
    """Write each text with the model's output for it and a reference."""
    lines = [
        f"source     {pair.source}\noutput     {output}\nreference  {pair.captions[0]}\n"
        for pair, output in zip(pairs, outputs, strict=True)
    ]
    with atomic_file(path) as file:
        file.write("\n".join(lines))


def draw_samples(
    path: Path, examples: Sequence[Example], captions: Sequence[str], *, columns: int = 4
) -> None:
    """Draw a grid of images, each with the model's caption (black) and a reference (gray)."""
    rows = -(-len(examples) // columns)
    sheet = Image.new("RGB", (columns * _WIDTH + _MARGIN, rows * _HEIGHT + _MARGIN), "white")
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(13)
    for index, example in enumerate(examples):
        row, column = divmod(index, columns)
        left, top = _MARGIN + column * _WIDTH, _MARGIN + row * _HEIGHT
        photo = ImageOps.contain(read_image(example.path, min_side=_SIDE), (_SIDE, _SIDE))
        sheet.paste(photo, (left + (_SIDE - photo.width) // 2, top + (_SIDE - photo.height) // 2))
        top += _SIDE + 4
        reference = next(iter(example.captions), "")
        for caption, color in ((captions[index], "black"), (reference, "gray")):
            lines = _wrap(caption, font, _SIDE)
            draw.multiline_text((left, top), "\n".join(lines), fill=color, font=font, spacing=2)
            top += _LINE * len(lines)
    with atomic_binary_file(path) as file:
        sheet.save(file, "PNG")


def _wrap(
    text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int, limit: int = 3
) -> list[str]:
    """Return the first `limit` lines of a text that is wrapped at `width` pixels."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if font.getlength(longer) <= width:
            lines[-1] = longer
            continue
        if lines[-1]:
            lines.append("")
        for character in word:  # a text without spaces is one long word
            if font.getlength(lines[-1] + character) > width:
                lines.append("")
            lines[-1] += character
    return lines[:limit]
