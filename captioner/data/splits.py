"""What a training learns from and is validated on: the examples of both splits, less the images that may be skipped."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence

from captioner.config.schema import Config, DataConfig
from captioner.console import console, track
from captioner.data.datasets import Example, hold_out, load_examples
from captioner.data.images import map_ahead, read_image
from captioner.data.loading import image_workers
from captioner.data.shapes import draw_shapes
from captioner.data.transforms import build_transform
from captioner.distributed import Ranks
from captioner.errors import CaptionerError, ImageError, first_few
from captioner.storage import new_file


def load_splits(data: DataConfig, ranks: Ranks) -> tuple[list[Example], list[Example]]:
    """Load train and dev, drawing the shapes first if they are asked for, or holding a share of train out as dev."""
    if data.shapes:
        if ranks.is_first:
            draw_shapes(data.shapes.folder, train=data.shapes.train, dev=data.shapes.dev)
        ranks.wait()
    train, *dev = (
        load_examples(source.annotations, source.images, source.split, restval=source.restval)
        for source in data.sources().values()
    )
    return (train, dev[0]) if dev else hold_out(train, data.holdout)


def without_unreadable(
    config: Config, splits: Mapping[str, list[Example]], ranks: Ranks, *, resumed: bool
) -> dict[str, list[Example]]:
    """Leave out of each split the images that cannot be read, and list them in the run's skipped.json.

    A run that goes on leaves out what it began without, whatever has been mended since: it sees the same batches.

    Raises:
        CaptionerError: they are more than `data.bad_images` allows.
    """
    file = config.output / "skipped.json"
    if resumed and file.exists():
        skipped = json.loads(file.read_text(encoding="utf-8"))
    else:
        skipped = {name: _problems(config, split, ranks) for name, split in splits.items()}
        if ranks.is_first:
            with new_file(file) as listing:
                json.dump(skipped, listing, indent=1)
    kept = {}
    for name, split in splits.items():
        ids = {problem["image_id"] for problem in skipped[name]}
        kept[name] = [example for example in split if example.image_id not in ids]
        if ids:
            console.print(
                f"{len(ids)} of {len(split)} images of {name} cannot be read and are skipped: see {file}"
            )
    return kept


def _problems(config: Config, split: Sequence[Example], ranks: Ranks) -> list[dict[str, int | str]]:
    mine = ranks.share(split)
    at_least = build_transform(config.encoder.transform, config.encoder.image_size).at_least
    looked_at = track(
        unreadable(mine, at_least=at_least),
        total=len(mine),
        doing="looking at images",
        unit="images",
    )
    found = [
        {"image_id": example.image_id, "file": str(example.path), "reason": error.reason}
        for example, error in looked_at
        if error
    ]
    everything = [problem for share in ranks.gather(found) for problem in share]
    if len(everything) > config.data.bad_images * len(split):
        first = first_few([f"{problem['file']} ({problem['reason']})" for problem in everything])
        raise CaptionerError(
            f"{len(everything)} of {len(split)} images cannot be read, more than data.bad_images="
            f"{config.data.bad_images:g} of them: {first}; mend them, or "
            "allow more"
        )
    return everything


def unreadable(
    examples: Sequence[Example], *, at_least: int
) -> Iterator[tuple[Example, ImageError | None]]:
    """Read each image as training would, `at_least` pixels wide and high, and say what is wrong with it, if anything.

    Pillow decodes beside Python, so threads are enough.
    """

    def problem(example: Example) -> ImageError | None:
        try:
            read_image(example.path, at_least=at_least)
        except ImageError as error:
            return error
        return None

    yield from zip(examples, map_ahead(problem, examples, threads=image_workers()), strict=True)
