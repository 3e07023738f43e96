"""The page resizes images as Pillow does, byte for byte."""

import functools
import hashlib

import numpy as np
import PIL
import pytest
from PIL import Image

from captioner.data.transforms import CentreCrop, Squash

# From Pillow 13 on, tall images are resized from top to bottom first.
PILLOW_13 = int(PIL.__version__.split(".")[0]) >= 13
SIZES = [
    (1, 1),
    (3, 2),
    (1000, 3),
    (500, 333),
    (640, 427),
    (224, 224),
    (225, 223),
    (448, 448),
    (449, 449),
    (897, 895),
    (2048, 1365),
    (4000, 3000),
    (5000, 7),
]
TALL = [(3, 1000), (223, 225), (375, 500), (276, 583), (481, 1023), (1500, 4001)]
BOXES = [(0, 0, 1, 1), (0.21, 0.13, 0.77, 0.84), (0, 0.3, 0.5001, 1), (0.4, 0.45, 0.43, 0.47)]

PIXELS = """
    // As `noise` in the test.
    let last = { width: 0, height: 0 };
    const noise = (width, height) => {
      if (width === last.width && height === last.height) return last;
      const data = new Uint8Array(4 * width * height);
      for (let i = 0; i < width * height; i++) {
        for (let c = 0; c < 3; c++) data[4 * i + c] = Math.imul(3 * i + c + 1, 2654435761) >>> 24;
      }
      last = { width, height, data };
      return last;
    };
    const { createHash } = await import("node:crypto");
    const sha256 = (bytes) => createHash("sha256").update(bytes).digest("hex");
"""


@functools.lru_cache(maxsize=1)
def noise(width, height):
    index = np.arange(1, 3 * width * height + 1, dtype=np.uint32)
    values = (index * np.uint32(2654435761)) >> np.uint32(24)
    return Image.fromarray(values.astype(np.uint8).reshape(height, width, 3))


def sha256(data):
    return hashlib.sha256(data).hexdigest()


def differing(results, expected, cases):
    return [case for case, one, other in zip(cases, results, expected, strict=True) if one != other]


@pytest.mark.parametrize("sizes", [SIZES, TALL], ids=["wide", "tall"])
def test_every_byte_equals_that_of_pillow(sizes, node):
    if sizes == TALL and not PILLOW_13:
        pytest.skip("Pillow 12 and older round tall images in another order")
    cases = []
    for width, height in sizes:
        for left, top, right, bottom in BOXES:
            box = [left * width, top * height, right * width, bottom * height]
            cases.append([width, height, box, 224, 224])
    cases.append([*sizes[-1], [0, 0, *sizes[-1]], 31, 57])
    results = node(
        PIXELS
        + """
        const { resize } = await load("resize.js");
        respond(data.map(([width, height, box, toWidth, toHeight]) => {
          const image = resize(noise(width, height), box, toWidth, toHeight);
          return sha256(image.data.filter((_, index) => index % 4 < 3));
        }));
        """,
        cases,
    )
    expected = [
        sha256(
            noise(width, height)
            .resize(size, Image.Resampling.BILINEAR, box=box, reducing_gap=2.0)
            .tobytes()
        )
        for width, height, box, *size in cases
    ]
    assert differing(results, expected, cases) == []


def test_input_of_the_encoder_equals_that_of_the_transforms(node):
    cases = [
        [width, height, transform]
        for width, height in [(640, 480), (57, 33), (3001, 2001)]
        for transform in ("squash", "crop")
    ]
    results = node(
        PIXELS
        + """
        const { preprocess } = await load("resize.js");
        respond(data.map(([width, height, transform]) =>
          sha256(preprocess(noise(width, height), { transform, image_size: 64 }))));
        """,
        cases,
    )
    transforms = {"squash": Squash(64), "crop": CentreCrop(64)}
    expected = [
        sha256(np.asarray(transforms[name](noise(width, height), None)).tobytes())
        for width, height, name in cases
    ]
    assert differing(results, expected, cases) == []
