"""Teach a small trunk to see what larger ones see: python scripts/distill.py --help.

Student and teachers look at the same crops of photographs, and each cell of the student's last map, through one linear
map for each teacher, has to tell what the teacher's says there (Hinton et al. 2015, "Distilling the knowledge in a
neural network"; Beyer et al. 2022, "Knowledge distillation: a good teacher is patient and consistent"). Captions are
not looked at.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, NamedTuple

import torch
import typer
from safetensors.torch import save_file
from teachers import Teacher, load_teacher
from torch import Tensor, nn
from torch.nn import functional as F

from captioner.config import DeviceName, PrecisionName, TrunkName
from captioner.console import console, track
from captioner.data.batching import (
    Batches,
    CaptionDataset,
    EpochSampler,
    ImageSource,
    Loader,
    image_workers,
    in_order,
)
from captioner.data.datasets import Example, load_examples
from captioner.data.transforms import RandomResizedCrop, Squash, Transform
from captioner.devices import autocast, pick_device
from captioner.errors import CaptionerError, UsageError
from captioner.models.encoder import ImageEncoder
from captioner.text.vocabulary import BOS, EOS
from captioner.training.optim import set_learning_rate

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)

SIZE = 224
MEASURED = 512  # images that teachers are measured on, and heads fitted to
CROPS = RandomResizedCrop(SIZE, area=(0.4, 1.0), ratio=(3 / 4, 4 / 3), jitter=0.2)
SUMMARY_WEIGHT = 2.0  # of the error of the mean over places, which most decoders read, beside that of the places


class Place(NamedTuple):
    """Where and how precisely to compute."""

    device: torch.device
    precision: PrecisionName


@dataclass
class Lesson:
    """A teacher, with what the student needs in order to be compared with it."""

    teacher: Teacher
    head: nn.Linear
    mean: Tensor  # (C,) of the teacher's places
    scale: Tensor  # (C,) deviation of the places
    summary_scale: Tensor  # (C,) deviation of their mean over an image

    def errors(self, grid: Tensor, images: Tensor) -> tuple[Tensor, Tensor]:
        """Mean squared error of places and of summaries, as shares of the teacher's variance."""
        with torch.no_grad():
            target = (_to_grid(self.teacher(images), grid.shape[1]) - self.mean).float()  # (B, P, C)
        miss = self.head(grid).float() * self.scale - target
        places = (miss / self.scale).square().mean()
        return places, (miss.mean(dim=1) / self.summary_scale).square().mean()


def _to_grid(grid: Tensor, places: int) -> Tensor:
    """Average a map (B, P', C) over the cells of a map of `places`."""
    if grid.shape[1] == places:
        return grid
    side, wanted = int(grid.shape[1] ** 0.5), int(places**0.5)
    square = grid.transpose(1, 2).reshape(len(grid), -1, side, side)  # (B, C, side, side)
    return F.adaptive_avg_pool2d(square, wanted).flatten(2).transpose(1, 2)


def loader_of(examples: Sequence[Example], transform: Transform, batches: Batches, *, seed: int = 0) -> Loader:
    """Read images; the captions of a batch say nothing."""
    nothing = [[[BOS, EOS]]] * len(examples)
    dataset = CaptionDataset(ImageSource(examples, transform), nothing, 1, seed)
    return Loader(dataset, batches, workers=image_workers())


@torch.no_grad()
def lesson_of(teacher: Teacher, student: ImageEncoder, loader: Loader, device: torch.device) -> Lesson:
    """Measure a teacher on the whole photographs of `loader`, and fit the head to what the student sees already.

    (From a random head the first gradients would only harm the trunk.)
    """
    theirs, ours = [], []
    for batch in track(loader, total=len(loader), doing=f"measuring {teacher.name}", unit="batches"):
        images = batch.source.to(device)
        ours.append(student.features(images).float())
        theirs.append(_to_grid(teacher(images).float(), ours[-1].shape[1]))
    seen, grid = torch.cat(ours), torch.cat(theirs)  # (images, P, student's C), (images, P, C)
    mean, scale = grid.mean(dim=(0, 1)), grid.std(dim=(0, 1)) + 1e-3
    head = nn.Linear(seen.shape[2], grid.shape[2]).to(device)
    places = F.pad(seen.flatten(0, 1), (0, 1), value=1.0)  # a last column for the bias
    ridge = 1e-3 * len(places) * torch.eye(places.shape[1], device=device)
    fitted = torch.linalg.solve(places.T @ places + ridge, places.T @ ((grid - mean) / scale).flatten(0, 1))
    head.weight.copy_(fitted[:-1].T)
    head.bias.copy_(fitted[-1])
    return Lesson(teacher, head, mean, scale, grid.mean(dim=1).std(dim=0) + 1e-3)


@app.command(
    epilog="Example: python scripts/distill.py train.json --dev dev.json --teacher resnet101 --output trunk.safetensors"
)
def distill(
    annotations: Annotated[Path, typer.Argument(help="Annotations of the photographs to learn from.")],
    dev: Annotated[Path, typer.Option(help="Annotations of photographs to measure on.")],
    output: Annotated[Path, typer.Option(help="Where the trunk goes: a .safetensors file for encoder.weights.")],
    teacher: Annotated[
        list[str], typer.Option(help="efficientnet_lite0 to 2, or a trunk: NAME or NAME=FILE; repeatable.")
    ],
    images: Annotated[Path | None, typer.Option(help="Where they are, if not where they usually lie.")] = None,
    dev_images: Annotated[Path | None, typer.Option(help="The same of dev.")] = None,
    student: Annotated[TrunkName, typer.Option(help="The trunk that learns.")] = "resnet18",
    weights: Annotated[str, typer.Option(help="What it starts from: default, none, or a file.")] = "default",
    epochs: Annotated[int, typer.Option(min=1)] = 10,
    batch_size: Annotated[int, typer.Option(min=2)] = 32,
    learning_rate: Annotated[float, typer.Option(min=0, help="At its peak.")] = 3e-4,
    seed: int = 0,
    device: DeviceName = "auto",
    precision: PrecisionName = "auto",
) -> None:
    """Write a trunk that imitates the teachers. After each epoch the file holds the trunk as it is then."""
    if output.suffix != ".safetensors":
        raise UsageError(f"--output {output}: name it .safetensors, which is what it will be")
    torch.manual_seed(seed)
    place = Place(pick_device(device), precision)
    examples, held_out = load_examples(annotations, images), load_examples(dev, dev_images)
    pupil = ImageEncoder(trunk=student)
    pupil.load_trunk(weights)
    pupil.finetune("stem")
    pupil.to(place.device).train()
    some = loader_of(examples, Squash(SIZE), in_order(min(MEASURED, len(examples)), batch_size))
    with autocast(*place):
        lessons = [lesson_of(load_teacher(name).to(place.device), pupil, some, place.device) for name in teacher]
    sampler = EpochSampler(len(examples), batch_size, seed)
    learner = Learner(pupil, lessons, place, peak=learning_rate, steps=epochs * sampler.batches)
    train = loader_of(examples, CROPS, sampler, seed=seed)
    whole = loader_of(held_out, Squash(SIZE), in_order(len(held_out), batch_size))
    console.print(f"before: {measure(pupil, lessons, whole, place)}")
    for epoch in range(epochs):
        sampler.epoch = epoch
        for batch in track(train, total=sampler.batches, doing=f"epoch {epoch + 1}/{epochs}", unit="batches"):
            learner.step(batch.source.to(place.device))
        save(pupil, output)
        console.print(f"epoch {epoch + 1}: {measure(pupil, lessons, whole, place)}")


class Learner:
    """Takes steps that make the student's errors smaller."""

    def __init__(
        self, pupil: ImageEncoder, lessons: Sequence[Lesson], place: Place, *, peak: float, steps: int
    ) -> None:
        self.pupil, self.lessons, self.place = pupil, lessons, place
        self.learning = [*pupil.parameters(), *(weight for lesson in lessons for weight in lesson.head.parameters())]
        group = {"params": self.learning, "peak": peak}
        self.optimizer = torch.optim.AdamW([group], lr=peak, weight_decay=1e-4, fused=True)
        self.taken, self.steps = 0, steps

    def step(self, images: Tensor) -> None:
        """Learn from a batch (B, 3, height, width)."""
        set_learning_rate(self.optimizer, step=self.taken, steps=self.steps, warmup=0.05)
        with autocast(*self.place):
            grid = self.pupil.features(images)
            errors = [lesson.errors(grid, images) for lesson in self.lessons]
        loss = torch.stack([places + SUMMARY_WEIGHT * summaries for places, summaries in errors]).sum()
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.learning, 5.0)
        self.optimizer.step()
        self.taken += 1


@torch.inference_mode()
def measure(pupil: ImageEncoder, lessons: Sequence[Lesson], loader: Loader, place: Place) -> str:
    """Say how much of each teacher's variance is explained, of places and of summaries."""
    pupil.eval()
    sums = torch.zeros(len(lessons), 2)
    for batch in track(loader, total=len(loader), doing="dev", unit="batches"):
        images = batch.source.to(place.device)
        with autocast(*place):
            grid = pupil.features(images)
            sums += torch.stack([torch.stack(lesson.errors(grid, images)).cpu() for lesson in lessons])
    pupil.train()
    return ", ".join(
        f"{100 * places:.1f} % of {lesson.teacher.name}'s places explained, {100 * summaries:.1f} % of its summaries"
        for lesson, (places, summaries) in zip(lessons, (1 - sums / len(loader)).tolist(), strict=True)
    )


def save(pupil: ImageEncoder, output: Path) -> None:
    """Keep the trunk as it is now."""
    output.parent.mkdir(parents=True, exist_ok=True)
    unfinished = output.with_suffix(".tmp")
    save_file({name: tensor.contiguous() for name, tensor in pupil.trunk.state_dict().items()}, unfinished)
    unfinished.replace(output)


if __name__ == "__main__":
    try:
        app(prog_name=f"python {sys.argv[0]}")
    except CaptionerError as error:
        typer.echo(f"distill: {error}", err=True)
        sys.exit(error.exit_code)
