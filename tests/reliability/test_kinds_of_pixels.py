"""Grey, 16-bit, transparent, palette, CMYK: all pixel formats become the right RGB."""

import struct

import pytest
from pictures import chunk, close, encoded, png, reason, scene
from PIL import Image

from captioner.data.images import read_image

pytestmark = pytest.mark.row(16)

Pixel = tuple[int, ...]
WHITE = (255, 255, 255)
RED = (255, 0, 0)


def with_alpha(mode: str, colour: Pixel | int) -> Image.Image:
    return Image.new(mode, (2, 2), colour)


def palette(transparency: int | bytes | None) -> bytes:
    image = Image.new("P", (2, 2), 1)
    image.putpalette([0, 0, 0, 255, 0, 0])
    return encoded(image, **({} if transparency is None else {"transparency": transparency}))


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        pytest.param(encoded(Image.new("RGB", (2, 2), "red")), RED, id="RGB"),
        pytest.param(encoded(Image.new("L", (2, 2), 100)), (100, 100, 100), id="L"),
        pytest.param(encoded(Image.new("1", (2, 2), 1)), WHITE, id="1 bit"),
        pytest.param(palette(None), RED, id="palette"),
        pytest.param(palette(1), WHITE, id="palette, a transparent colour"),
        pytest.param(
            palette(bytes([255, 128])), (255, 127, 127), id="palette, a half transparent colour"
        ),
        pytest.param(encoded(with_alpha("RGBA", (255, 0, 0, 255))), RED, id="RGBA, opaque"),
        pytest.param(encoded(with_alpha("RGBA", (255, 0, 0, 0))), WHITE, id="RGBA, transparent"),
        pytest.param(
            encoded(with_alpha("RGBA", (255, 0, 0, 128))),
            (255, 127, 127),
            id="RGBA, half transparent",
        ),
        pytest.param(encoded(with_alpha("LA", (0, 0))), WHITE, id="LA, transparent"),
        pytest.param(with_alpha("PA", (0, 0)), WHITE, id="PA, transparent"),
        pytest.param(
            png(1, 1, 8, 2, bytes(RED), chunk(b"tRNS", struct.pack(">3H", *RED))),
            WHITE,
            id="RGB, tRNS",
        ),
        pytest.param(
            png(1, 1, 8, 0, b"\x64", chunk(b"tRNS", struct.pack(">H", 100))), WHITE, id="L, tRNS"
        ),
        pytest.param(
            encoded(Image.new("I;16", (2, 2), 40000)), (156, 156, 156), id="16 bit"
        ),  # 40000 / 257
        pytest.param(encoded(Image.new("I;16", (2, 2), 200)), (1, 1, 1), id="16 bit, dark"),
        pytest.param(
            encoded(Image.new("I;16", (2, 2), 40000), "TIFF"), (156, 156, 156), id="16 bit TIFF"
        ),
        pytest.param(
            encoded(Image.new("I", (2, 2), 40000), "PPM"), (156, 156, 156), id="16 bit PGM"
        ),
        pytest.param(
            png(1, 1, 16, 2, struct.pack(">3H", 65535, 32896, 0)), (255, 128, 0), id="16 bit RGB"
        ),
        pytest.param(png(1, 1, 16, 6, struct.pack(">4H", 65535, 0, 0, 0)), WHITE, id="16 bit RGBA"),
        pytest.param(Image.new("I", (2, 2), 200), (200, 200, 200), id="I, in 0..255"),
        pytest.param(Image.new("F", (2, 2), 0.2), (51, 51, 51), id="F, in 0..1"),
        pytest.param(Image.new("F", (2, 2), 51.0), (51, 51, 51), id="F, in 0..255"),
        pytest.param(encoded(Image.new("F", (2, 2), 0.2), "TIFF"), (51, 51, 51), id="F, TIFF"),
        pytest.param(Image.new("CMYK", (2, 2), (0, 255, 255, 0)), RED, id="CMYK"),
        pytest.param(Image.new("YCbCr", (2, 2), (255, 128, 128)), WHITE, id="YCbCr"),
        pytest.param(Image.new("HSV", (2, 2), (0, 255, 255)), RED, id="HSV"),
    ],
)
def test_every_pixel_format_becomes_the_right_rgb(source, expected):
    image = read_image(source)
    assert (type(image), image.mode) == (Image.Image, "RGB")
    assert image.getpixel((0, 0)) == expected


def test_values_outside_the_usual_ranges_are_scaled_from_their_own_range():
    image = Image.new("F", (3, 1))
    for x, value in enumerate((-1000.0, 0.0, 1000.0)):
        image.putpixel((x, 0), value)
    assert [read_image(image).getpixel((x, 0))[0] for x in range(3)] == [0, 128, 255]


def test_values_that_are_not_finite_are_refused():
    assert "not finite" in reason(Image.new("F", (2, 2), float("nan")))
    assert "not finite" in reason(Image.new("F", (2, 2), float("inf")))


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_a_jpeg_of_any_mode_keeps_its_colours(mode):
    original = scene().convert(mode)
    assert close(
        read_image(encoded(original, "JPEG", quality=95, subsampling=0)),
        original.convert("RGB"),
        16,
    )
