"""Transforms give uint8 squares of the right part, and draw from the given generator only."""

import copy
import io
import pickle
import random
import threading
import time
from typing import get_args

import numpy as np
import pytest
from PIL import Image

from captioner.config.schema import AugmentationName, TransformName
from captioner.data import transforms
from captioner.data.images import read_image
from captioner.data.transforms import RandomResizedCrop, build_transform, prefetch_images

NAMES = get_args(TransformName) + get_args(AugmentationName)
SIZES = [(64, 48), (1, 1), (20000, 1), (1, 20000), (3, 1000)]


def ramp(width: int, height: int) -> Image.Image:
    """Red grows from 0 at the left edge to 255 at the right, green from top to bottom."""
    across = Image.linear_gradient("L").transpose(Image.Transpose.ROTATE_90).resize((width, height))
    down = Image.linear_gradient("L").resize((width, height))
    return Image.merge("RGB", (across, down, Image.new("L", (width, height))))


def noise(width: int, height: int) -> Image.Image:
    return Image.frombytes("RGB", (width, height), random.Random(0).randbytes(width * height * 3))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("size", SIZES)
def test_every_shape_becomes_a_uint8_square(name, size):
    result = build_transform(name, 32)(Image.new("RGB", size, (200, 200, 200)), random.Random(0))
    assert (result.shape, result.dtype) == ((3, 32, 32), np.uint8)
    assert result.flags.c_contiguous
    assert result.flags.writeable  # else torch.from_numpy would warn
    assert result.mean() == pytest.approx(200, abs=41)  # jitter: a fifth


@pytest.mark.parametrize("name", NAMES)
def test_the_channels_are_red_green_and_blue(name):
    image = Image.new("RGB", (20, 20), (250, 120, 10))
    red, green, blue = build_transform(name, 8)(image, random.Random(0)).mean(axis=(1, 2))
    assert red > green + 50 > blue + 100


@pytest.mark.parametrize("name", NAMES)
def test_the_same_random_numbers_give_the_same_picture(name):
    transform, image = build_transform(name, 32), noise(100, 80)
    first, again = (transform(image, random.Random(7)) for _ in range(2))
    assert np.array_equal(first, again)
    assert np.array_equal(pickle.loads(pickle.dumps(transform))(image, random.Random(7)), first)


@pytest.mark.parametrize("name", ["squash", "crop"])
def test_evaluation_draws_no_random_numbers(name):
    rng = random.Random(7)
    before = copy.deepcopy(rng.getstate())
    build_transform(name, 32)(noise(100, 80), rng)
    assert rng.getstate() == before


@pytest.mark.parametrize("name", ["random_crop", "mild_crop"])
def test_augmentation_differs_between_calls(name):
    transform, rng, image = build_transform(name, 16), random.Random(0), noise(100, 80)
    assert len({transform(image, rng).tobytes() for _ in range(20)}) == 20


@pytest.mark.parametrize("name", NAMES)
def test_the_source_image_is_not_changed(name):
    image = noise(40, 30)
    build_transform(name, 16)(image, random.Random(0))
    assert image.tobytes() == noise(40, 30).tobytes()


def test_squash_keeps_the_whole_image():
    red, green, _ = build_transform("squash", 64)(ramp(640, 480), random.Random(0))
    for rising in (red[:, :1], green[:1]):
        assert rising.max() < 5
    for rising in (red[:, -1:], green[-1:]):
        assert rising.min() > 250


def test_crop_keeps_the_central_seven_eighths_of_the_short_side():
    red, green, _ = build_transform("crop", 64)(ramp(640, 480), random.Random(0))
    side = 480 * 7 / 8
    for channel, length in ((red, 640), (green, 480)):
        assert channel.min() == pytest.approx(255 * (0.5 - side / 2 / length), abs=4)
        assert channel.max() == pytest.approx(255 * (0.5 + side / 2 / length), abs=4)


def test_crop_equals_resizing_to_256_and_cutting_out_224():
    image = ramp(512, 384)
    resized = image.resize((341, 256), Image.Resampling.BILINEAR).crop((58, 16, 58 + 224, 16 + 224))
    expected = np.asarray(resized).transpose(2, 0, 1).astype(int)
    difference = build_transform("crop", 224)(image, random.Random(0)) - expected
    assert abs(difference).max() <= 2


@pytest.mark.parametrize("name", ["random_crop", "mild_crop"])
@pytest.mark.parametrize("size", [(640, 480), (300, 400)])
def test_random_crops_keep_to_their_area_and_ratio(name, size):
    transform, rng, image = build_transform(name, 32), random.Random(0), Image.new("RGB", size)
    assert isinstance(transform, RandomResizedCrop)
    areas, ratios = [], []
    for _ in range(500):
        left, top, right, bottom = transform._draw(image, rng)
        assert 0 <= left < right <= size[0]
        assert 0 <= top < bottom <= size[1]
        areas.append((right - left) * (bottom - top) / (size[0] * size[1]))
        ratios.append((right - left) / (bottom - top))
    slack = 1e-9
    assert transform.area[0] - slack <= min(areas) < transform.area[0] + 0.05
    assert max(areas) <= 1
    assert transform.ratio[0] - slack <= min(ratios) < max(ratios) <= transform.ratio[1] + slack


@pytest.mark.parametrize("name", ["random_crop", "mild_crop"])
def test_tall_crops_are_drawn_as_often_as_wide_ones(name):
    transform, rng, image = build_transform(name, 32), random.Random(0), Image.new("RGB", (99, 99))
    boxes = [transform._draw(image, rng) for _ in range(5000)]
    tall = sum(right - left < bottom - top for left, top, right, bottom in boxes)
    assert tall / len(boxes) == pytest.approx(1 / 2, abs=0.02)


def test_an_image_too_long_for_every_ratio_gives_the_largest_crop():
    transform, rng, image = (
        build_transform("random_crop", 32),
        random.Random(0),
        Image.new("RGB", (1000, 10)),
    )
    boxes = [transform._draw(image, rng) for _ in range(20)]
    assert all(
        box[3] - box[1] == 10 and box[2] - box[0] == pytest.approx(10 * 4 / 3) for box in boxes
    )
    assert len(boxes) == len(set(boxes))


def test_half_of_the_crops_are_mirrored():
    transform, rng, image = build_transform("random_crop", 8), random.Random(0), ramp(64, 64)
    results = [transform(image, rng)[0].astype(int) for _ in range(200)]
    mirrored = sum(bool(red[:, 0].sum() > red[:, -1].sum()) for red in results)
    assert 70 < mirrored < 130


def test_only_the_mild_crop_changes_brightness():
    image, rng = Image.new("RGB", (64, 64), (100, 100, 100)), random.Random(0)
    for name, changed in (("random_crop", False), ("mild_crop", True)):
        lights = {round(build_transform(name, 8)(image, rng).mean()) for _ in range(20)}
        assert all(80 <= light <= 120 for light in lights)
        assert (len(lights) > 1) == changed


# Read ahead, in threads


def prefetched(images, size=4):
    batches = prefetch_images(images, build_transform("squash", 8), size=size)
    return [image for batch in batches for image in batch]


@pytest.mark.parametrize(
    "convert", [lambda image: image, lambda image: np.asarray(image)], ids=["Pillow", "array"]
)
@pytest.mark.parametrize("several", [list, tuple])
def test_the_images_and_arrays_of_a_list_are_read_in_several_threads(monkeypatch, convert, several):
    both_read = threading.Barrier(2)

    def read_together(image, **options):
        both_read.wait(20)  # for ever, if one thread reads all
        return read_image(image, **options)

    monkeypatch.setattr(transforms, "read_image", read_together)
    first, second = prefetched(several([convert(noise(20, 10)), convert(ramp(20, 10))]))
    assert not np.array_equal(first, second)


def test_a_pillow_image_that_occurs_twice_is_never_read_by_two_threads(monkeypatch):
    readers, most = [], []

    def read_slowly(image, **options):
        readers.append(image)
        most.append(len(readers))
        time.sleep(0.1)
        readers.remove(image)
        return read_image(image, **options)

    monkeypatch.setattr(transforms, "read_image", read_slowly)
    first, second, third = prefetched([noise(20, 10)] * 3)
    assert max(most) == 1
    assert np.array_equal(first, second)
    assert np.array_equal(first, third)


def test_images_in_one_open_file_are_read_by_one_thread(monkeypatch):
    names = []

    def read_and_name(image, **options):
        names.append(threading.current_thread().name)
        return read_image(image, **options)

    monkeypatch.setattr(transforms, "read_image", read_and_name)
    file = io.BytesIO()
    noise(20, 10).save(file, "PNG")
    prefetched([Image.open(file), file, Image.open(file)])
    assert names == ["read-ahead"] * 3


def test_a_buffer_that_a_source_fills_anew_is_read_before_the_next_image():
    buffer = np.empty((10, 20, 3), dtype=np.uint8)

    class Camera:
        """A map-style data set whose items are one buffer."""

        def __len__(self):
            return 6

        def __getitem__(self, index):
            if index >= len(self):
                raise IndexError
            buffer[:] = index
            return buffer

    assert [int(image.max()) for image in prefetched(Camera())] == list(range(6))
