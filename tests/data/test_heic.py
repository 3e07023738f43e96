"""HEIC photographs: their pixels, rotation, limits, and what is said without pillow-heif."""

import signal
import subprocess
import sys
import threading
import time
from io import BytesIO

import numpy as np
import pytest
from pictures import scene
from PIL import Image

from captioner.data import heic
from captioner.data.images import find_images, read_header, read_image
from captioner.errors import ImageError

HEAD = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic"
AVIF_HEAD = b"\0\0\0\x1cftypmif1\0\0\0\0mif1avifmiaf"


@pytest.fixture
def pillow_heif():
    return pytest.importorskip("pillow_heif")


def encode(pillow_heif, image, **options):
    """Return the bytes of a HEIC file, without loss, so that pixels can be compared."""
    target = BytesIO()
    file = pillow_heif.from_pillow(image)
    file.save(target, **({"quality": -1, "chroma": 444, "matrix_coefficients": 0} | options))
    return target.getvalue()


def pixels(image):
    return np.asarray(image, dtype=np.int16)


def reason(data, **options):
    with pytest.raises(ImageError) as caught:
        read_image(data, **options)
    return caught.value.reason


def test_a_heic_photo_has_the_pixels_that_were_encoded(pillow_heif, tmp_path):
    (tmp_path / "photo.heic").write_bytes(encode(pillow_heif, scene()))
    read = read_image(tmp_path / "photo.heic")
    assert (read.mode, read.info) == ("RGB", {})
    assert np.array_equal(pixels(read), pixels(scene()))
    assert read_header(tmp_path / "photo.heic") == (*scene().size, "RGB")
    assert find_images([str(tmp_path)]).files == [tmp_path / "photo.heic"]


@pytest.mark.parametrize("orientation", [3, 5, 6, 8])
def test_the_rotation_is_applied_once(pillow_heif, orientation):
    turned = scene()
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encode(pillow_heif, turned, exif=exif.tobytes())
    jpeg = BytesIO()  # an independent reader of the same tag
    turned.save(jpeg, "JPEG", exif=exif, quality=100, subsampling=0)
    difference = pixels(read_image(data)) - pixels(read_image(jpeg.getvalue()))
    assert b"irot" in data or b"imir" in data
    assert np.abs(difference).max() <= 6


def test_a_rotation_in_exif_alone_does_not_count(pillow_heif):
    upright, exif = scene(), Image.Exif()
    exif[0x0112] = 6
    turned = encode(pillow_heif, upright, exif=exif.tobytes())
    box = turned.index(b"irot")  # angle 0, in place of 3 quarters
    data = turned[: box + 4] + b"\0" + turned[box + 5 :]
    assert np.array_equal(pixels(read_image(data)), pixels(upright))


def test_ten_bits_and_alpha_are_read_as_of_other_formats(pillow_heif):
    values = np.linspace(0, 65535, 64 * 48, dtype=np.uint16).reshape(48, 64)
    grey = pillow_heif.from_bytes("L;16", (64, 48), values.tobytes())
    target = BytesIO()
    grey.save(target, quality=-1)
    read = read_image(target.getvalue())
    assert read.mode == "RGB"
    assert np.abs(pixels(read)[..., 0] - values // 256).max() <= 1

    clear = scene().convert("RGBA")
    clear.putalpha(Image.new("L", clear.size, 0))
    read = read_image(encode(pillow_heif, clear))
    assert read.getextrema() == ((255, 255), (255, 255), (255, 255))


def test_the_limit_of_pixels_counts_before_decoding(pillow_heif, monkeypatch):
    data = encode(pillow_heif, scene())
    opened = []
    monkeypatch.setattr(
        "pillow_heif.as_plugin.HeifImageFile.load", lambda image: opened.append(image)
    )
    width, height = scene().size
    message = reason(data, max_pixels=width * height - 1)
    assert message.startswith(f"too large: {width} x {height} pixels, the limit is")
    assert not opened


def test_a_header_with_a_smaller_size_than_the_pixels_is_refused(pillow_heif):
    data = bytearray(encode(pillow_heif, Image.new("RGB", (512, 512), "red")))
    place = data.index(b"ispe") + 8
    data[place : place + 8] = (16).to_bytes(4, "big") * 2
    assert reason(bytes(data)).startswith("corrupt")


def test_a_truncated_heic_photo_is_named_as_corrupt(pillow_heif):
    data = encode(pillow_heif, scene())
    for share in (0.05, 0.5, 0.9):
        assert "corrupt" in reason(data[: int(len(data) * share)])


def test_reading_changes_nothing_of_what_pillow_reads(pillow_heif):
    data = encode(pillow_heif, scene())
    before = dict(Image.OPEN), dict(Image.EXTENSION)
    read_image(data)
    assert before == (Image.OPEN, Image.EXTENSION)


def test_without_the_package_the_error_names_it(monkeypatch):
    monkeypatch.setattr(heic, "find_spec", lambda name: None)
    assert reason(HEAD) == (
        "not an image that can be read here (a HEIC photo: pip install pillow-heif, "
        "or convert it to JPEG)"
    )


def test_an_avif_image_without_a_decoder_is_named(monkeypatch):
    monkeypatch.setattr(heic, "find_spec", lambda name: None)
    monkeypatch.delitem(Image.OPEN, "AVIF", raising=False)
    assert "an AVIF image: pip install 'pillow>=11.3'" in reason(AVIF_HEAD)


@pytest.mark.skipif("AVIF" not in Image.OPEN, reason="this Pillow reads no AVIF")
def test_an_avif_image_is_read_upright_and_within_the_limit_of_pixels():
    exif, target = Image.Exif(), BytesIO()
    exif[0x0112] = 6
    scene().save(target, "AVIF", quality=100, subsampling="4:4:4", exif=exif)
    read = read_image(target.getvalue())
    expected = pixels(scene().transpose(Image.Transpose.ROTATE_270))
    assert np.abs(pixels(read) - expected).mean() < 3
    assert reason(target.getvalue(), max_pixels=100).startswith("too large")


FORK_WHILE_READING = """
import os, signal, sys, threading
from captioner.data.images import read_image

data = open(sys.argv[1], "rb").read()
stop = threading.Event()

def read_on():
    read_image(data)  # the first one imports pillow-heif
    while not stop.is_set():
        read_image(data)

threads = [threading.Thread(target=read_on) for _ in range(3)]
for thread in threads:
    thread.start()
failed = 0
for _ in range(int(sys.argv[2])):
    child = os.fork()
    if child == 0:
        signal.alarm(60)
        read_image(data)
        os._exit(0)
    failed += os.waitpid(child, 0)[1] != 0
stop.set()
for thread in threads:
    thread.join()
sys.exit(failed)
"""


@pytest.mark.skipif(not hasattr(signal, "alarm"), reason="this system does not fork")
@pytest.mark.parametrize("forks", [4, pytest.param(60, marks=pytest.mark.slow)])
def test_a_child_that_is_forked_while_threads_read_can_read(pillow_heif, tmp_path, forks):
    (tmp_path / "a.heic").write_bytes(encode(pillow_heif, scene()))
    command = [sys.executable, "-W", "ignore", "-c", FORK_WHILE_READING, tmp_path / "a.heic"]
    assert subprocess.run([*command, str(forks)], check=False, timeout=250).returncode == 0


def test_a_fork_waits_for_the_work_of_other_threads_and_goes_before_new_work(pillow_heif):
    work, entered, leave, order = heic._work, threading.Event(), threading.Event(), []

    def decode():
        with work:
            entered.set()
            leave.wait(10)
            order.append("work")

    def fork():
        work._stop()
        order.append("fork")
        work._go_on()

    def decode_later():
        with work:
            order.append("later work")

    threads = [threading.Thread(target=target) for target in (decode, fork, decode_later)]
    threads[0].start()
    assert entered.wait(10)
    threads[1].start()
    while not work._num_forks:
        time.sleep(0.001)
    threads[2].start()
    time.sleep(0.05)
    assert order == []
    leave.set()
    for thread in threads:
        thread.join(10)
    assert order == ["work", "fork", "later work"]
