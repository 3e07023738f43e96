"""A small COCO-style data set that the project draws itself, so that the whole pipeline runs with no download.

Each image shows one coloured shape, its size and its place, or two shapes and how they stand; five captions say it.
A dev scene is never drawn in train: only a model that puts words together afresh can caption it.
Knows Pillow and COCO's annotation format, and nothing of models.
"""

from __future__ import annotations

import json
import math
import os
import random
import re
import shutil
from collections.abc import Iterator
from itertools import cycle, islice, permutations, product
from pathlib import Path
from typing import NamedTuple

from PIL import Image, ImageDraw, ImageOps

from captioner.errors import CaptionerError, UsageError

Colour = tuple[int, int, int]
Point = tuple[float, float]  # fractions of the image's side, the origin at the top left

COLOURS = {
    "red": (206, 32, 41),
    "orange": (242, 130, 24),
    "yellow": (244, 214, 40),
    "green": (36, 148, 66),
    "blue": (38, 92, 206),
    "purple": (132, 52, 176),
}
RADII = {
    "small": 0.14,
    "large": 0.22,
    "": 0.2,
}  # in sides of the image; the size of two together is not told
KINDS = ("circle", "ring", "triangle", "cross")
CENTRES: dict[str, tuple[Point, ...]] = {
    "top left corner": ((0.28, 0.28),),
    "top right corner": ((0.72, 0.28),),
    "bottom left corner": ((0.28, 0.72),),
    "bottom right corner": ((0.72, 0.72),),
    "middle": ((0.5, 0.5),),
    "above": ((0.5, 0.25), (0.5, 0.75)),
    "left": ((0.25, 0.5), (0.75, 0.5)),
}
JITTER: dict[str, Point] = {
    "above": (0.08, 0.03),
    "left": (0.03, 0.08),
}  # how far a centre may move; others: 0.03
PHRASINGS = {
    "place": (
        "a {a} in the {place}",
        "there is a {a} in the {place}",
        "the {place} holds a {a}",
        "in the {place} is a {a}",
        "a picture with a {a} in the {place}",
    ),
    "above": (
        "a {a} is above a {b}",
        "a {b} is below a {a}",
        "there is a {a} above a {b}",
        "above a {b} is a {a}",
        "a {a} with a {b} below it",
    ),
    "left": (
        "a {a} is left of a {b}",
        "a {b} is right of a {a}",
        "there is a {a} left of a {b}",
        "left of a {b} is a {a}",
        "a {a} with a {b} on its right",
    ),
}

SUPERSAMPLING = 4
HELD_OUT = 6  # one scene in so many is kept for dev
SINGLES = 2  # one image in so many shows a single shape
SPLITS = ("train", "dev")
STAMP = "shapes.json"  # says with which arguments the folder was drawn, and whether to the end
EXPECTED = (STAMP, "train", "dev", "captions_train.json", "captions_dev.json")  # and the images
OURS = re.compile(r"(shapes|captions_train|captions_dev)\.json(\.part)?|(train|dev)(/\d{6}\.png)?")


class Shape(NamedTuple):
    """One thing to draw, in the words of its captions."""

    size: str  # a key of RADII
    colour: str
    kind: str

    def __str__(self) -> str:
        return " ".join(filter(None, self))


class Scene(NamedTuple):
    """What an image shows: one shape in a place, or two of which the first is above or left of the second."""

    where: str  # a key of CENTRES
    shapes: tuple[Shape, ...]

    def captions(self) -> list[str]:
        """Say the scene in five ways, of 7 to 12 words each."""
        names = dict(zip("ab", map(str, self.shapes), strict=False))
        templates = PHRASINGS.get(self.where, PHRASINGS["place"])
        return [template.format(place=self.where, **names) for template in templates]


def draw_shapes(
    folder: Path, *, train: int = 1000, dev: int = 200, size: int = 64, seed: int = 0
) -> None:
    """Make the data set in `folder`, or leave it if it is already there: a newcomer's first training set.

    Writes `train/` and `dev/` with PNG images of `size` x `size` pixels, and `captions_train.json` and
    `captions_dev.json` as COCO has them. The same arguments give the same files; a half-drawn set, or one drawn with
    other arguments, is drawn again. From about 50 train images on, train says every word that dev says.

    Raises UsageError for impossible numbers, and for a folder with anything in it that was not drawn here.
    """
    if train < 1 or dev < 1 or not 32 <= size <= 1024:
        raise UsageError(
            f"shapes: train={train}, dev={dev}, size={size}: give train and dev >= 1, size 32 to 1024"
        )
    stamp = {"version": 2, "train": train, "dev": dev, "size": size, "seed": seed}
    try:
        held = _held(folder)
        if _finished(folder, stamp, held):
            return
        folder.mkdir(parents=True, exist_ok=True)
        _write_json(
            folder / STAMP, {**stamp, "finished": False}
        )  # from here on the folder is known to be ours
        splits = dict(zip(SPLITS, _scenes(train, dev, random.Random(seed)), strict=True))
        for split, scenes in splits.items():
            if split in held:
                shutil.rmtree(folder / split)
            _write_split(
                folder,
                split,
                scenes,
                first_id=1 if split == "train" else train + 1,
                size=size,
                seed=seed,
            )
        _write_json(folder / STAMP, {**stamp, "finished": True})
    except OSError as error:
        reason = error.strerror or error
        raise CaptionerError(
            f"{folder}: cannot draw the shapes there: {reason}; free space or give another folder"
        ) from error


def _held(folder: Path) -> set[str]:
    """List what the folder holds, refusing one with anything in it that was not drawn here."""
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{folder}: is a file; give a folder to draw the shapes in")
    inside = [folder, *(folder / split for split in SPLITS)]
    held = {
        path.relative_to(folder).as_posix()
        for place in inside
        if place.is_dir()
        for path in place.iterdir()
    }
    unknown = {name for name in held if not OURS.fullmatch(name)}
    if not held & {STAMP, STAMP + ".part"}:
        unknown = held
    if unknown:
        raise UsageError(
            f"{folder}: holds {min(unknown)!r}, which was not drawn here; give a new or an empty folder"
        )
    return held


def _finished(folder: Path, stamp: dict[str, int], held: set[str]) -> bool:
    """Tell whether the folder holds just this data set, complete."""
    if STAMP not in held or len(held) != len(EXPECTED) + stamp["train"] + stamp["dev"]:
        return False
    try:
        return bool(json.loads((folder / STAMP).read_text("utf-8")) == {**stamp, "finished": True})
    except ValueError:
        return False


def _scenes(train: int, dev: int, rng: random.Random) -> Iterator[list[Scene]]:
    """Choose the scenes of train, then those of dev: none is in both."""
    sized = [Shape(*words) for words in product(("small", "large"), COLOURS, KINDS)]
    plain = [Shape("", *words) for words in product(COLOURS, KINDS)]
    singles = [
        Scene(place, (shape,)) for place in CENTRES if place not in PHRASINGS for shape in sized
    ]
    pairs = [
        Scene(relation, pair) for relation in ("above", "left") for pair in permutations(plain, 2)
    ]
    rng.shuffle(singles)
    rng.shuffle(pairs)
    for count, held_out in ((train, False), (dev, True)):
        chosen: list[Scene] = []
        for pool, share in ((singles, count // SINGLES), (pairs, count - count // SINGLES)):
            own = [
                scene for number, scene in enumerate(pool) if (number % HELD_OUT == 0) == held_out
            ]
            chosen += islice(cycle(_new_words_first(own)), share)
        rng.shuffle(chosen)
        yield chosen


def _new_words_first(scenes: list[Scene]) -> list[Scene]:
    """Move the scenes that say a word for the first time to the front, so that a few of them say every word."""
    said: set[str] = set()
    new: list[Scene] = []
    rest: list[Scene] = []
    for scene in scenes:
        words = set(" ".join(scene.captions()).split())
        (rest if words <= said else new).append(scene)
        said |= words
    return new + rest


def _write_split(
    folder: Path, split: str, scenes: list[Scene], *, first_id: int, size: int, seed: int
) -> None:
    """Write the images of a split and their annotation file."""
    (folder / split).mkdir()
    images: list[dict[str, object]] = []
    annotations: list[dict[str, object]] = []
    for image_id, scene in enumerate(scenes, start=first_id):
        file_name = f"{image_id:06}.png"
        _draw(scene, size, random.Random(f"{seed}/{image_id}")).save(folder / split / file_name)
        images.append({"id": image_id, "file_name": file_name, "width": size, "height": size})
        for caption in scene.captions():
            annotations.append(
                {"id": 5 * first_id + len(annotations), "image_id": image_id, "caption": caption}
            )
    info = {"description": "Shapes drawn by captioner", "version": "1"}
    _write_json(
        folder / f"captions_{split}.json",
        {"info": info, "images": images, "annotations": annotations},
    )


def _draw(scene: Scene, size: int, rng: random.Random) -> Image.Image:
    """Paint the scene with jitter, large, and shrink it: that makes the edges smooth."""
    side = size * SUPERSAMPLING
    tone = [rng.randint(205, 240) for _ in range(3)]
    clouds = Image.frombytes("L", (4, 4), rng.randbytes(16)).resize(
        (side, side), Image.Resampling.BICUBIC
    )
    light, dark = (tuple(value + change for value in tone) for change in (12, -12))
    image = ImageOps.colorize(clouds, black=dark, white=light)
    canvas = ImageDraw.Draw(image)
    for shape, centre in zip(scene.shapes, CENTRES[scene.where], strict=True):
        jitter = JITTER.get(scene.where, (0.03, 0.03))
        x, y = (
            side * (at + rng.uniform(-far, far)) for at, far in zip(centre, jitter, strict=True)
        )
        radius = side * RADII[shape.size] * rng.uniform(0.92, 1.08)
        shade = rng.uniform(0.88, 1.08)
        red, green, blue = (min(255, round(value * shade)) for value in COLOURS[shape.colour])
        _paint(canvas, shape.kind, (x, y), radius, rng.uniform(-0.02, 0.02), (red, green, blue))
    return image.reduce(SUPERSAMPLING)


def _paint(
    canvas: ImageDraw.ImageDraw, kind: str, centre: Point, radius: float, tilt: float, fill: Colour
) -> None:
    """Draw one shape; those with corners reach a little further than the round ones, so that all look alike in size."""
    x, y = centre
    box = (x - radius, y - radius, x + radius, y + radius)
    match kind:
        case "circle":
            canvas.ellipse(box, fill=fill)
        case "ring":
            canvas.ellipse(box, outline=fill, width=round(0.35 * radius))
        case "triangle":
            canvas.polygon(
                [_at(centre, 1.15 * radius, tilt + corner / 3) for corner in range(3)], fill=fill
            )
        case "cross":
            for turn in (0, 1 / 4):
                ends = [_at(centre, 1.1 * radius, tilt + turn + half) for half in (0, 1 / 2)]
                canvas.line(ends, fill=fill, width=round(0.5 * radius))


def _at(centre: Point, reach: float, turn: float) -> Point:
    """Find the point that lies `reach` from the centre, `turn` of a full turn clockwise from the top."""
    angle = 2 * math.pi * turn
    return centre[0] + reach * math.sin(angle), centre[1] - reach * math.cos(angle)


def _write_json(path: Path, content: object) -> None:
    """Write beside and rename, so that a file is there whole or not at all."""
    part = path.with_name(path.name + ".part")
    part.write_text(json.dumps(content), "utf-8")
    os.replace(part, path)
