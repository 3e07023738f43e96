"""Animations, EXIF orientations and extreme shapes become one upright frame and a square."""

import io
import random
import warnings

import numpy as np
import pytest
from pictures import close, encoded, scene
from PIL import Image, ImageOps

from captioner.data.images import read_image
from captioner.data.transforms import build_transform

pytestmark = pytest.mark.row(17)


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "TIFF"])
def test_an_animated_image_gives_its_first_frame(kind):
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    image = read_image(encoded(frames[0], kind, save_all=True, append_images=frames[1:]))
    assert close(image, frames[0], 4)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_exif_orientation_is_applied_exactly_once(kind, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = (
        {"quality": 100, "subsampling": 0}
        if kind == "JPEG"
        else {"lossless": True}
        if kind == "WEBP"
        else {}
    )
    data = encoded(scene(), kind, exif=exif, **options)
    expected = ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB")
    assert close(read_image(data), expected, 0)
    assert close(read_image(read_image(data)), expected, 0)
    assert close(read_image(Image.open(io.BytesIO(data))), expected, 0)


def test_an_image_with_a_broken_exif_block_is_read():
    for exif in (b"Exif\0\0", b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0" + bytes(range(64))):
        with warnings.catch_warnings(action="ignore"):
            assert read_image(encoded(scene(), "JPEG", exif=exif)).size == (64, 48)


@pytest.mark.parametrize("size", [(1, 1), (20000, 1), (1, 20000)])
def test_extreme_shapes_are_read_and_resized_to_a_square(size):
    image = read_image(encoded(Image.new("RGB", size, "red")))
    assert image.size == size
    for name in ("squash", "crop"):
        square = build_transform(name, 32)(image, random.Random(0))  # (3, 32, 32)
        assert (square == np.array([255, 0, 0]).reshape(3, 1, 1)).all()
