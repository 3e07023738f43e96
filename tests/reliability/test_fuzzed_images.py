"""Images with changed or missing bytes: an image or an error, never a crash."""

import os
import signal

import pytest
from hypothesis import given, note
from hypothesis import strategies as st
from pictures import encoded, noise
from reading_process import ReadingProcess

pytestmark = [pytest.mark.row(14), pytest.mark.timeout(3600)]

KINDS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
MODES = {"JPEG": ("RGB", "L", "CMYK"), "WEBP": ("RGB", "RGBA"), "BMP": ("RGB", "L")}
OPTIONS = {
    "JPEG": ({}, {"progressive": True}),
    "TIFF": ({}, {"compression": "tiff_lzw"}, {"compression": "jpeg"}),
}


@st.composite
def hostile_images(draw):
    """Draw an image file, cut short or with changed bytes, more of them in the header."""
    kind = draw(st.sampled_from(KINDS))
    mode = draw(st.sampled_from(MODES.get(kind, ("RGB", "L", "P", "1"))))
    options = draw(st.sampled_from(OPTIONS.get(kind, ({},)) if mode == "RGB" else ({},)))
    data = bytearray(encoded(noise(24, 16).convert(mode), kind, **options))
    positions = st.integers(0, len(data) - 1) | st.integers(0, min(64, len(data) - 1))
    for position, value in draw(
        st.lists(st.tuples(positions, st.integers(0, 255)), min_size=1, max_size=8)
    ):
        data[position] = value
    return bytes(data[: draw(st.just(len(data)) | st.integers(0, len(data)))])


@pytest.fixture(scope="module")
def process():
    with ReadingProcess() as process:
        yield process


def test_a_crash_is_detected():
    with ReadingProcess() as process:
        os.kill(process.process.pid, signal.SIGSEGV)
        with pytest.raises(AssertionError, match="crashed with -11"):
            process.read(b"")
        assert process.read(b"") == "ImageError: image (bytes): is empty (0 bytes)"


@given(data=hostile_images() | st.binary(max_size=200), min_side=st.none() | st.integers(1, 32))
def test_fuzzed_images_give_an_image_or_an_error(process, data, min_side):
    note(data.hex())
    outcome = process.read(data, min_side)
    assert outcome == "RGB" or outcome.startswith("ImageError: image (bytes): ")
    assert "\n" not in outcome
