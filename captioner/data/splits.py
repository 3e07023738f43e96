"""The train and dev examples of a training run, and the search for images that cannot be read."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from captioner.config.schema import DataConfig
from captioner.console import console, track
from captioner.data.datasets import Example, load_examples, split_sources, train_dev_split
from captioner.data.images import map_ahead, read_image
from captioner.data.loading import default_num_workers
from captioner.data.shapes import draw_shapes
from captioner.distributed import Ranks
from captioner.errors import CaptionerError, ImageError, first_few
from captioner.storage import atomic_file


def load_splits(data: DataConfig, ranks: Ranks) -> tuple[list[Example], list[Example]]:
    """Return the train and dev examples: drawn first (`data.shapes`), or dev split off from train.

    Raises:
        UsageError: an annotation file is missing or has errors.
    """
    if data.shapes:
        if ranks.is_first:
            draw_shapes(data.shapes.folder, train=data.shapes.train, dev=data.shapes.dev)
        ranks.wait()
    train, *dev = (
        load_examples(source.annotations, source.images, source.split, restval=source.restval)
        for source in split_sources(data).values()
    )
    return (train, dev[0]) if dev else train_dev_split(train, data.holdout)


def drop_unreadable_images(
    splits: Mapping[str, list[Example]],
    *,
    skipped_file: Path,
    min_side: int,
    max_share: float,
    ranks: Ranks,
    resumed: bool,
) -> dict[str, list[Example]]:
    """Return the splits without the images that cannot be read.

    A resumed run drops the images listed in `skipped_file`, even if they can be read by now: its
    batches are then those of the run that it resumes.

    Args:
        splits: name of each split and its examples.
        skipped_file: JSON file to write with each dropped image and the reason.
        min_side: as in `read_image`.
        max_share: largest share of a split that may be dropped.
        ranks: processes that share the work of reading the images.
        resumed: whether to use an existing `skipped_file`.

    Raises:
        CaptionerError: more than `max_share` of a split cannot be read.
    """
    if resumed and skipped_file.exists():
        skipped = json.loads(skipped_file.read_text(encoding="utf-8"))
    else:
        skipped = {
            name: _find_unreadable(split, min_side=min_side, max_share=max_share, ranks=ranks)
            for name, split in splits.items()
        }
        if ranks.is_first:
            with atomic_file(skipped_file) as file:
                json.dump(skipped, file, indent=1)
    readable = {}
    for name, split in splits.items():
        ids = {record["image_id"] for record in skipped[name]}
        readable[name] = [example for example in split if example.image_id not in ids]
        if ids:
            console.print(
                f"{len(ids)} of {len(split)} images of {name} cannot be read and are skipped: "
                f"see {skipped_file}"
            )
    return readable


def _find_unreadable(
    split: Sequence[Example], *, min_side: int, max_share: float, ranks: Ranks
) -> list[dict[str, int | str]]:
    """Read all images of a split, each rank its share, and return a record for each failure.

    Images are read in threads: Pillow decodes without holding Python's global lock.
    """
    shard = ranks.shard(split)
    errors = map_ahead(partial(_error_of, min_side=min_side), shard, threads=default_num_workers())
    tracked = track(errors, total=len(shard), doing="reading images", unit="images")
    failed = [
        {"image_id": example.image_id, "file": str(example.path), "reason": error.reason}
        for example, error in zip(shard, tracked, strict=True)
        if error
    ]
    records = [record for rank_records in ranks.gather(failed) for record in rank_records]
    if len(records) > max_share * len(split):
        first = first_few([f"{record['file']} ({record['reason']})" for record in records])
        raise CaptionerError(
            f"{len(records)} of {len(split)} images cannot be read, more than data.bad_images="
            f"{max_share:g} of them: {first}; fix them, or raise data.bad_images"
        )
    return records


def _error_of(example: Example, *, min_side: int) -> ImageError | None:
    """Return the error of reading an image as training does, if there is one."""
    try:
        read_image(example.path, min_side=min_side)
    except ImageError as error:
        return error
    return None
