"""A stream of images goes on after any of them and is never behind; forked children can read."""

import os
import signal
import subprocess
import sys
import threading

import pytest
from pictures import encoded, scene

from captioner import Captioner, Translator
from captioner.errors import ImageError, UsageError

pytestmark = pytest.mark.row(41)


@pytest.fixture(scope="module")
def captioner(tiny_model):
    return Captioner.from_pretrained(tiny_model, device="cpu")


class FailingError(Exception):
    """What a plugin could raise."""


class Failing:
    """An open file whose reading fails."""

    def __init__(self, error):
        self.error = error

    def read(self):
        raise self.error


@pytest.mark.parametrize(
    "error",
    [
        FailingError("no"),
        RecursionError(),
        StopIteration(),
        MemoryError(),
        KeyError("x"),
        OSError(),
    ],
)
def test_a_stream_goes_on_after_an_image_that_fails_with_any_exception(captioner, photo, error):
    for images in ([photo, Failing(error), photo], iter([photo, Failing(error), photo])):
        first, failed, last = captioner.stream(images)
        assert first == last
        assert isinstance(failed, ImageError)


def test_a_live_source_gets_each_result_before_it_gives_the_next_image(captioner, photo):
    results, came = [], threading.Semaphore(0)

    def live():
        for _ in range(3):
            yield photo
            assert came.acquire(timeout=20)  # until the caption of this image has come

    for result in captioner.stream(live()):
        results.append(result.text)
        came.release()
    assert results == [captioner.caption(photo).text] * 3


def test_an_exception_of_the_source_itself_is_raised_after_the_captions_before_it(captioner, photo):
    def failing():
        yield photo
        yield b"<html>"
        raise FailingError("the camera is gone")

    stream = captioner.stream(failing())
    assert next(stream).text
    assert isinstance(next(stream), ImageError)
    with pytest.raises(FailingError, match="the camera is gone"):
        next(stream)


def test_a_buffer_that_the_source_fills_anew_is_captioned_as_it_was(captioner, shapes):
    import numpy as np
    from PIL import Image

    photos = sorted((shapes / "train").iterdir())[:6]
    frames = [np.asarray(Image.open(photo).convert("RGB")) for photo in photos]
    buffer = np.empty_like(frames[0])

    def camera():
        for frame in frames:
            buffer[:] = frame
            yield buffer

    assert [each.text for each in captioner.stream(camera())] == [
        each.text for each in captioner.caption(photos)
    ]


def test_closing_a_stream_ends_its_threads(captioner, photo):
    before = threading.active_count()

    def endless():
        while True:
            yield photo

    stream = captioner.stream(endless())
    next(stream)
    assert threading.active_count() > before
    stream.close()
    assert threading.active_count() == before


def test_a_live_source_of_texts_gets_each_translation_before_it_gives_the_next_text(
    tiny_translator,
):
    translator, came = Translator.from_pretrained(tiny_translator, device="cpu"), []

    def live():
        for number in range(3):
            yield "a dog runs"
            assert len(came) <= number + 1
            done.acquire(timeout=20)

    done = threading.Semaphore(0)
    for translation in translator.stream(live()):
        came.append(translation.text)
        done.release()
    assert came == [translator.translate("a dog runs").text] * 3
    with pytest.raises(UsageError, match="texts is one text"):
        translator.stream("a dog runs")


FORK_WHILE_READING = """
import os, signal, sys, threading
from captioner.data.images import read_image

data, stop = open(sys.argv[1], "rb").read(), threading.Event()

def read_on():
    while not stop.is_set():
        read_image(data)

threads = [threading.Thread(target=read_on) for _ in range(3)]
for thread in threads:
    thread.start()
failed = 0
for _ in range(5):  # the first fork comes while the threads read their first image
    child = os.fork()
    if child == 0:
        signal.alarm(20)
        read_image(data)
        os._exit(0)
    failed += os.waitpid(child, 0)[1] != 0
stop.set()
sys.exit(failed)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_a_child_that_is_forked_while_threads_read_can_read(tmp_path):
    (tmp_path / "a.jpg").write_bytes(encoded(scene(), "JPEG"))
    command = [sys.executable, "-c", FORK_WHILE_READING, str(tmp_path / "a.jpg")]
    assert subprocess.run(command, check=False, timeout=200).returncode == 0


FORK_AFTER_CAPTIONING = """
import os, signal, sys, torch
from captioner import Captioner

torch.set_num_threads(2)
captioner = Captioner.from_pretrained(sys.argv[1], device="cpu")
images = [torch.zeros(3, 224, 224, dtype=torch.uint8)] * 8
before = captioner.caption(images)[0].text
torch.ones(2000, 2000).sum()  # starts the threads of torch
child = os.fork()
if child == 0:
    signal.alarm(60)
    os._exit(captioner.caption(images)[0].text != before or torch.ones(2000, 2000).sum() != 4e6)
sys.exit(os.waitpid(child, 0)[1] != 0)
"""


@pytest.mark.skipif(not hasattr(signal, "alarm"), reason="this system does not fork")
def test_a_child_that_is_forked_after_captioning_can_caption(tiny_model):
    command = [sys.executable, "-c", FORK_AFTER_CAPTIONING, str(tiny_model)]
    environment = {**os.environ, "OMP_NUM_THREADS": "2"}
    done = subprocess.run(command, check=False, timeout=200, env=environment)
    assert done.returncode == 0


FORK_BEFORE_ANY_MODEL = """
import os, sys, torch
from captioner import Captioner

torch.set_num_threads(2)
child = os.fork()
if child == 0:
    os._exit(torch.get_num_threads() != 2)
sys.exit(os.waitpid(child, 0)[1] != 0)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_a_child_that_is_forked_before_there_is_a_model_keeps_its_number_of_threads():
    command = [sys.executable, "-c", FORK_BEFORE_ANY_MODEL]
    assert subprocess.run(command, check=False, timeout=200).returncode == 0
