"""Images with changed, missing and foreign bytes: a picture or a reason, and never the end of the process."""

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
    """Bytes of an image of any kind, some of them changed (near the front, where headers are, more often), or cut."""
    kind = draw(st.sampled_from(KINDS))
    mode = draw(st.sampled_from(MODES.get(kind, ("RGB", "L", "P", "1"))))
    options = draw(st.sampled_from(OPTIONS.get(kind, ({},)) if mode == "RGB" else ({},)))
    data = bytearray(encoded(noise(24, 16).convert(mode), kind, **options))
    places = st.integers(0, len(data) - 1) | st.integers(0, min(64, len(data) - 1))
    for place, value in draw(
        st.lists(st.tuples(places, st.integers(0, 255)), min_size=1, max_size=8)
    ):
        data[place] = value
    return bytes(data[: draw(st.just(len(data)) | st.integers(0, len(data)))])


@pytest.fixture(scope="module")
def process():
    with ReadingProcess() as process:
        yield process


def test_a_crash_would_be_seen():
    with ReadingProcess() as process:
        os.kill(process.process.pid, signal.SIGSEGV)
        with pytest.raises(AssertionError, match="crashed with -11"):
            process.read(b"")
        assert process.read(b"") == "ImageError: image (bytes): is empty (0 bytes)"


@given(data=hostile_images() | st.binary(max_size=200), at_least=st.none() | st.integers(1, 32))
def test_fuzzed_images_give_a_picture_or_a_reason(process, data, at_least):
    note(data.hex())
    said = process.read(data, at_least)
    assert said == "RGB" or said.startswith("ImageError: image (bytes): ")
    assert "\n" not in said
