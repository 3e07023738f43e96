"""Images with far too many pixels are refused by their header, before decoding."""

import pytest
from pictures import encoded, png, reason, scene
from PIL import Image
from reading_process import ReadingProcess

from captioner.data.images import read_image

pytestmark = pytest.mark.row(15)


@pytest.mark.parametrize("side", [7072, 10_000, 20_000, 60_000])  # 50, 100, 400 and 3600 megapixels
@pytest.mark.filterwarnings("error")
def test_a_forged_huge_header_is_refused_before_decoding(side):
    message = reason(png(side, side, 8, 2, b""))
    assert message.startswith("too large")
    assert f"{side:,} x {side:,}" in message
    assert "50,000,000" in message


def test_a_webp_that_claims_a_huge_canvas_is_refused():
    data = bytearray(
        encoded(scene(), "WEBP", lossless=False, exif=b"Exif\0\0II*\0")
    )  # EXIF asks for the VP8X header
    position = data.index(b"VP8X") + 12
    data[position : position + 6] = (16383).to_bytes(3, "little") * 2
    assert "too large" in reason(bytes(data))


def test_the_caller_sets_the_limit_in_pixels():
    data = encoded(Image.new("RGB", (20, 10)))
    assert read_image(data, max_pixels=200).size == (20, 10)
    assert reason(data, max_pixels=199) == "too large: 20 x 10 pixels, the limit is 199 in all"
    assert "too large" in reason(Image.new("RGB", (20, 10)), max_pixels=199)


@pytest.mark.filterwarnings("error")
def test_a_limit_above_pillows_own_causes_no_warning():
    data = encoded(Image.new("1", (10_000, 10_000)))
    assert read_image(data, max_pixels=100_000_000).size == (10_000, 10_000)


def test_rejected_images_take_no_memory():
    forged = [png(side, side, 8, 2, b"") for side in (10_000, 20_000, 60_000)]
    valid = encoded(Image.new("1", (9000, 9000)))  # 81 megapixels in ten kilobytes
    with ReadingProcess() as process:
        process.read(encoded(scene()))
        before = process.peak_memory()
        for data in (*forged, valid):
            assert process.read(data).startswith("ImageError: image (bytes): too large")
        assert process.peak_memory() - before < 50e6
