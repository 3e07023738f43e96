"""The drawn shapes: a fair test of a captioner, reproducible, and safe for other folders."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
from PIL import Image

from captioner.data import shapes
from captioner.data.shapes import COLOURS, draw_shapes
from captioner.errors import CaptionerError, UsageError

SIZES = {"train": 120, "dev": 30}


@pytest.fixture(scope="module")
def drawn(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("drawn") / "shapes"
    draw_shapes(folder, **SIZES)
    return folder


def annotations(folder: Path, split: str) -> dict:
    return json.loads((folder / f"captions_{split}.json").read_text("utf-8"))


def captions(folder: Path, split: str) -> dict[int, list[str]]:
    found: dict[int, list[str]] = {}
    for annotation in annotations(folder, split)["annotations"]:
        found.setdefault(annotation["image_id"], []).append(annotation["caption"])
    return found


def contents(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def changed_times(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


@pytest.mark.parametrize("split", SIZES)
def test_every_image_has_its_size_and_five_different_captions(drawn, split):
    listed = annotations(drawn, split)["images"]
    assert len(listed) == SIZES[split]
    assert {image["file_name"] for image in listed} == {
        path.name for path in (drawn / split).iterdir()
    }
    for image in listed:
        with Image.open(drawn / split / image["file_name"]) as picture:
            assert (
                (picture.mode, picture.size)
                == ("RGB", (64, 64))
                == ("RGB", (image["width"], image["height"]))
            )
    said = captions(drawn, split)
    assert said.keys() == {image["id"] for image in listed}
    assert all(len(set(five)) == len(five) == 5 for five in said.values())


def test_ids_are_unique_across_both_splits(drawn):
    for kind in ("images", "annotations"):
        counts = Counter(
            thing["id"] for split in SIZES for thing in annotations(drawn, split)[kind]
        )
        assert max(counts.values()) == 1


def test_captions_have_6_to_12_words(drawn):
    lengths = {
        len(text.split())
        for split in SIZES
        for five in captions(drawn, split).values()
        for text in five
    }
    assert min(lengths) >= 6
    assert max(lengths) <= 12


def test_each_caption_belongs_to_exactly_one_scene():
    owners: dict[str, shapes.Scene] = {}
    train, dev = shapes._scenes(1000, 200, shapes.random.Random(0))
    for scene in set(train + dev):
        for text in scene.captions():
            assert owners.setdefault(text, scene) == scene


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(("train", "dev"), [(50, 50), (1000, 200), (4000, 1000)])
def test_no_dev_scene_is_drawn_in_train_but_all_its_words_are(train, dev, seed):
    splits = list(shapes._scenes(train, dev, shapes.random.Random(seed)))
    assert [len(scenes) for scenes in splits] == [train, dev]
    assert not set(splits[0]) & set(splits[1])
    words = [
        {word for scene in scenes for text in scene.captions() for word in text.split()}
        for scenes in splits
    ]
    assert words[1] <= words[0]


def test_the_colour_in_the_caption_is_the_colour_in_the_image(drawn):
    for image_id, five in captions(drawn, "train").items():
        with Image.open(drawn / "train" / f"{image_id:06}.png") as picture:
            seen = [colour for _, colour in picture.getcolors(64 * 64)]
        for told in set(five[0].split()) & set(COLOURS):
            aim = COLOURS[told]
            assert (
                min(sum(abs(a - b) for a, b in zip(aim, pixel, strict=True)) for pixel in seen) < 80
            )


@pytest.mark.parametrize("kind", shapes.KINDS)
@pytest.mark.parametrize("colour", COLOURS)
def test_each_shape_is_at_the_place_in_its_caption(colour, kind):
    blank = shapes.Shape("", colour, kind)
    other = shapes.Shape(
        "", "blue" if colour != "blue" else "red", "circle" if kind != "circle" else "ring"
    )
    for where, axis in (("above", 1), ("left", 0)):
        for seed in range(3):
            picture = shapes._draw(
                shapes.Scene(where, (blank, other)), 64, shapes.random.Random(seed)
            )
            centres = [_centre(picture, COLOURS[shape.colour])[axis] for shape in (blank, other)]
            assert centres[1] - centres[0] > 64 / 4


def test_large_shapes_cover_more_than_small_ones():
    for kind in shapes.KINDS:
        areas = {
            size: [
                len(_pixels(shapes._draw(scene, 64, shapes.random.Random(seed)), COLOURS["red"]))
                for scene in [shapes.Scene("middle", (shapes.Shape(size, "red", kind),))]
                for seed in range(5)
            ]
            for size in ("small", "large")
        }
        assert min(areas["large"]) > 1.5 * max(areas["small"])


def _pixels(picture: Image.Image, colour: tuple[int, int, int]) -> list[tuple[int, int]]:
    width, pixels = picture.width, iter(picture.tobytes())
    near = [
        sum(abs(a - b) for a, b in zip(colour, pixel, strict=True)) < 80
        for pixel in zip(*[pixels] * 3, strict=True)
    ]
    return [(number % width, number // width) for number, is_near in enumerate(near) if is_near]


def _centre(picture: Image.Image, colour: tuple[int, int, int]) -> tuple[float, float]:
    places = _pixels(picture, colour)
    return sum(x for x, _ in places) / len(places), sum(y for _, y in places) / len(places)


def test_the_same_seed_gives_the_same_bytes_and_another_seed_does_not(drawn, tmp_path):
    draw_shapes(tmp_path / "again", **SIZES)
    draw_shapes(tmp_path / "other", **SIZES, seed=1)
    assert contents(tmp_path / "again") == contents(drawn)
    assert captions(tmp_path / "other", "train") != captions(drawn, "train")


def test_a_complete_data_set_is_not_drawn_again(tmp_path):
    draw_shapes(tmp_path, train=10, dev=5)
    before = changed_times(tmp_path)
    draw_shapes(tmp_path, train=10, dev=5)
    assert changed_times(tmp_path) == before


def test_other_arguments_replace_the_data_set_completely(tmp_path):
    draw_shapes(tmp_path / "a", train=20, dev=9)
    draw_shapes(tmp_path / "a", train=10, dev=5, size=32)
    draw_shapes(tmp_path / "b", train=10, dev=5, size=32)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


@pytest.mark.parametrize("images", [0, 1, 10, 14])
def test_an_interrupted_drawing_is_completed(tmp_path, monkeypatch, images):
    draw_shapes(tmp_path / "whole", train=10, dev=5)
    real, left = shapes._draw, iter(range(images))

    def breaks(*arguments):
        if next(left, None) is None:
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(shapes, "_draw", breaks)
    with pytest.raises(KeyboardInterrupt):
        draw_shapes(tmp_path / "broken", train=10, dev=5)
    monkeypatch.setattr(shapes, "_draw", real)
    draw_shapes(tmp_path / "broken", train=10, dev=5)
    assert contents(tmp_path / "broken") == contents(tmp_path / "whole")


@pytest.mark.parametrize("lost", ["dev/000012.png", "captions_train.json", "shapes.json.part"])
def test_a_lost_or_left_over_file_is_repaired(tmp_path, lost):
    draw_shapes(tmp_path / "whole", train=10, dev=5)
    draw_shapes(tmp_path / "hurt", train=10, dev=5)
    path = tmp_path / "hurt" / lost
    path.unlink() if path.exists() else path.write_text("{")
    draw_shapes(tmp_path / "hurt", train=10, dev=5)
    assert contents(tmp_path / "hurt") == contents(tmp_path / "whole")


@pytest.mark.parametrize(
    "foreign", ["holiday.jpg", "train/holiday.jpg", "train/000001.png", "captions_train.json"]
)
def test_a_folder_with_other_files_is_refused_and_not_changed(tmp_path, foreign):
    path = tmp_path / foreign
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"dear")
    before = contents(tmp_path)
    with pytest.raises(UsageError, match="was not drawn here: choose a new or an empty folder"):
        draw_shapes(tmp_path, train=10, dev=5)
    assert contents(tmp_path) == before


def test_a_foreign_file_among_ours_is_named_and_kept(tmp_path):
    draw_shapes(tmp_path, train=10, dev=5)
    (tmp_path / "train" / "notes.txt").write_text("mine")
    with pytest.raises(UsageError, match=r"train/notes\.txt"):
        draw_shapes(tmp_path, train=11, dev=5)
    assert (tmp_path / "train" / "notes.txt").read_text() == "mine"


def test_a_file_in_place_of_the_folder_is_refused(tmp_path):
    (tmp_path / "shapes").write_text("")
    with pytest.raises(UsageError, match="is a file"):
        draw_shapes(tmp_path / "shapes")


def test_a_full_disk_is_reported_with_folder_and_reason(tmp_path, monkeypatch):
    def full(*arguments, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(shapes, "_write_split", full)
    with pytest.raises(CaptionerError, match="No space left on device") as told:
        draw_shapes(tmp_path / "shapes")
    assert str(tmp_path / "shapes") in str(told.value)


@pytest.mark.parametrize("numbers", [{"train": 0}, {"dev": 0}, {"size": 8}, {"size": 100_000}])
def test_numbers_out_of_range_are_refused_before_anything_is_written(tmp_path, numbers):
    with pytest.raises(UsageError, match=f"{next(iter(numbers))}={next(iter(numbers.values()))}"):
        draw_shapes(tmp_path / "shapes", **numbers)
    assert not (tmp_path / "shapes").exists()
