"""A small COCO-style data set of drawn shapes, to run the whole pipeline without a download.

Half of the images show one coloured shape in some size and place, the others two shapes, one above
or left of the other. Each has five captions. No dev scene occurs in train, so a model must combine
words in new ways.
"""

from __future__ import annotations

import json
import math
import random
import re
import shutil
from collections.abc import Iterator
from itertools import cycle, islice, permutations, product
from pathlib import Path
from typing import NamedTuple

from PIL import Image, ImageDraw, ImageOps

from captioner.errors import CaptionerError, UsageError
from captioner.storage import publish

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
# As fractions of the image's side; captions do not name the size of two shapes.
RADII = {"small": 0.14, "large": 0.22, "": 0.2}
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
# How far a centre may move in x and y; 0.03 for the other scenes.
JITTER: dict[str, Point] = {"above": (0.08, 0.03), "left": (0.03, 0.08)}
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
DEV_EVERY = 6  # every sixth scene is for dev
SPLITS = ("train", "dev")
STAMP = "shapes.json"  # the arguments that the folder was drawn with, and whether it is complete
FIXED_NAMES = (STAMP, "train", "dev", "captions_train.json", "captions_dev.json")
DRAWN = re.compile(r"(shapes|captions_train|captions_dev)\.json(\.part)?|(train|dev)(/\d{6}\.png)?")


class Shape(NamedTuple):
    """A shape in the words of its captions."""

    size: str  # a key of RADII
    colour: str
    kind: str

    def __str__(self) -> str:
        return " ".join(filter(None, self))


class Scene(NamedTuple):
    """One shape in a place, or two shapes, the first above or left of the second."""

    where: str  # a key of CENTRES
    shapes: tuple[Shape, ...]

    def captions(self) -> list[str]:
        """Return five captions of 7 to 12 words."""
        names = dict(zip("ab", map(str, self.shapes), strict=False))
        templates = PHRASINGS.get(self.where, PHRASINGS["place"])
        return [template.format(place=self.where, **names) for template in templates]


def draw_shapes(
    folder: Path, *, train: int = 1000, dev: int = 200, size: int = 64, seed: int = 0
) -> None:
    """Draw the data set into `folder`, unless it is already there.

    Writes PNG images to `train/` and `dev/`, and the COCO files `captions_train.json` and
    `captions_dev.json`. The same arguments always give the same files. A set that is incomplete, or
    was drawn with other arguments, is drawn again. With 50 or more train images, train has all
    words of dev.

    Args:
        folder: where to write.
        train: number of train images.
        dev: number of dev images.
        size: width and height of the images in pixels, 32 to 1024.
        seed: seed of all random choices.

    Raises:
        UsageError: a number is out of range, or `folder` holds other files.
        CaptionerError: the files cannot be written.
    """
    if train < 1 or dev < 1 or not 32 <= size <= 1024:
        raise UsageError(
            f"train={train}, dev={dev} or size={size} is out of range: "
            "use train and dev of at least 1, and size from 32 to 1024"
        )
    stamp = {"version": 2, "train": train, "dev": dev, "size": size, "seed": seed}
    try:
        existing = _list_files(folder)
        if _is_complete(folder, stamp, existing):
            return
        folder.mkdir(parents=True, exist_ok=True)
        _write_json(folder / STAMP, {**stamp, "finished": False})  # marks the folder as drawn here
        for split, scenes in zip(SPLITS, _scenes(train, dev, random.Random(seed)), strict=True):
            if split in existing:
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
        raise CaptionerError(
            f"{folder}: cannot write the shapes: {error.strerror or error}; "
            "free space or choose another folder"
        ) from error


def _list_files(folder: Path) -> set[str]:
    """Return the relative names of all files and folders.

    Raises:
        UsageError: the folder is a file, or holds files that were not drawn here.
    """
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{folder}: is a file: choose a folder to draw the shapes in")
    folders = [path for path in (folder, *(folder / split for split in SPLITS)) if path.is_dir()]
    names = {path.relative_to(folder).as_posix() for inner in folders for path in inner.iterdir()}
    has_stamp = bool(names & {STAMP, STAMP + ".part"})
    unknown = {name for name in names if not has_stamp or not DRAWN.fullmatch(name)}
    if unknown:
        raise UsageError(
            f"{folder}: holds {min(unknown)!r}, which was not drawn here: "
            "choose a new or an empty folder"
        )
    return names


def _is_complete(folder: Path, stamp: dict[str, int], existing: set[str]) -> bool:
    """Return whether the folder holds exactly this data set."""
    if STAMP not in existing or len(existing) != len(FIXED_NAMES) + stamp["train"] + stamp["dev"]:
        return False
    try:
        return bool(json.loads((folder / STAMP).read_text("utf-8")) == {**stamp, "finished": True})
    except ValueError:
        return False


def _scenes(train: int, dev: int, rng: random.Random) -> Iterator[list[Scene]]:
    """Yield the scenes of train, then those of dev. No scene is in both."""
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
    for count, is_dev in ((train, False), (dev, True)):
        chosen: list[Scene] = []
        for pool, number in ((singles, count // 2), (pairs, count - count // 2)):
            of_split = [scene for i, scene in enumerate(pool) if (i % DEV_EVERY == 0) == is_dev]
            chosen += islice(cycle(_new_words_first(of_split)), number)
        rng.shuffle(chosen)
        yield chosen


def _new_words_first(scenes: list[Scene]) -> list[Scene]:
    """Move scenes whose captions have a new word to the front, so that a few scenes have all."""
    seen: set[str] = set()
    new: list[Scene] = []
    rest: list[Scene] = []
    for scene in scenes:
        words = set(" ".join(scene.captions()).split())
        (rest if words <= seen else new).append(scene)
        seen |= words
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
        annotations += [
            {"id": 5 * image_id + number, "image_id": image_id, "caption": caption}
            for number, caption in enumerate(scene.captions())
        ]
    info = {"description": "Shapes drawn by captioner", "version": "1"}
    content = {"info": info, "images": images, "annotations": annotations}
    _write_json(folder / f"captions_{split}.json", content)


def _draw(scene: Scene, size: int, rng: random.Random) -> Image.Image:
    """Draw the scene with jitter at four times its size, then reduce it to smooth the edges."""
    side = size * SUPERSAMPLING
    background = [rng.randint(205, 240) for _ in range(3)]  # RGB
    clouds = Image.frombytes("L", (4, 4), rng.randbytes(16)).resize(
        (side, side), Image.Resampling.BICUBIC
    )
    light, dark = (tuple(value + change for value in background) for change in (12, -12))
    image = ImageOps.colorize(clouds, black=dark, white=light)
    canvas = ImageDraw.Draw(image)
    for shape, centre in zip(scene.shapes, CENTRES[scene.where], strict=True):
        jitter = JITTER.get(scene.where, (0.03, 0.03))
        x, y = (side * (c + rng.uniform(-j, j)) for c, j in zip(centre, jitter, strict=True))
        radius = side * RADII[shape.size] * rng.uniform(0.92, 1.08)
        shade = rng.uniform(0.88, 1.08)
        red, green, blue = (min(255, round(value * shade)) for value in COLOURS[shape.colour])
        _paint(canvas, shape.kind, (x, y), radius, rng.uniform(-0.02, 0.02), (red, green, blue))
    return image.reduce(SUPERSAMPLING)


def _paint(
    canvas: ImageDraw.ImageDraw, kind: str, centre: Point, radius: float, tilt: float, fill: Colour
) -> None:
    """Draw one shape. Shapes with corners have a larger radius, so that all seem equally large."""
    x, y = centre
    box = (x - radius, y - radius, x + radius, y + radius)
    match kind:
        case "circle":
            canvas.ellipse(box, fill=fill)
        case "ring":
            canvas.ellipse(box, outline=fill, width=round(0.35 * radius))
        case "triangle":
            canvas.polygon(
                [_polar(centre, 1.15 * radius, tilt + n / 3) for n in range(3)], fill=fill
            )
        case "cross":
            for turn in (0, 1 / 4):
                ends = [_polar(centre, 1.1 * radius, tilt + turn + half) for half in (0, 1 / 2)]
                canvas.line(ends, fill=fill, width=round(0.5 * radius))


def _polar(centre: Point, radius: float, turn: float) -> Point:
    """Return the point at `radius` from the centre, `turn` full turns clockwise from the top."""
    angle = 2 * math.pi * turn
    return centre[0] + radius * math.sin(angle), centre[1] - radius * math.cos(angle)


def _write_json(path: Path, content: object) -> None:
    """Write a temporary file and rename it, so that the file is complete or absent."""
    part = path.with_name(path.name + ".part")
    part.write_text(json.dumps(content), "utf-8")
    publish(part, path)
