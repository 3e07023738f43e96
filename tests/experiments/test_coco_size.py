"""The rehearsal of COCO: its data, and the measurement of what a step takes."""

import sys

import pytest
from pictures import noise

from captioner.data.datasets import load_examples
from captioner.errors import CaptionerError, UsageError
from experiments.coco_size import data
from experiments.coco_size.measured import run


@pytest.fixture
def captions(tmp_path):
    path = tmp_path / "captions.jsonl"
    path.write_text('{"image": "1.jpg", "captions": ["a dog", "a cat", "two birds"]}\n')
    return path


@pytest.fixture
def photographs(tmp_path):
    folder = tmp_path / "photographs"
    folder.mkdir()
    for number in range(3):
        noise(16 + number, 16).save(folder / f"{number}.jpg")
    return folder


def make(tmp_path, photographs, captions, scale=0.001):
    return data.make_data(tmp_path / "coco", str(photographs), [captions], scale=scale, seed=0)


def test_both_formats_hold_the_same_images_and_captions(tmp_path, photographs, captions):
    files = make(tmp_path, photographs, captions)
    for coco, folder, split in ((files.train, "train2017", "train"), (files.dev, "val2017", "val")):
        ours = load_examples(coco, files.images / folder)
        theirs = load_examples(files.karpathy, files.images, split)
        assert [(each.image_id, each.captions) for each in ours] == [
            (each.image_id, each.captions) for each in theirs
        ]
        assert all(each.path.samefile(other.path) for each, other in zip(ours, theirs, strict=True))


def test_the_numbers_are_those_of_coco_times_the_scale(tmp_path, photographs, captions):
    files = make(tmp_path, photographs, captions)
    examples = load_examples(files.train, files.images / "train2017")
    assert len(examples) == round(118_287 / 1000)
    assert sum(len(each.captions) for each in examples) == round(591_753 / 1000)
    assert {len(each.captions) for each in examples} == {5, 6}
    assert len({each.path.stat().st_ino for each in examples}) == 3  # links, no copies


def test_data_that_was_made_before_is_not_made_again(tmp_path, photographs, captions):
    files = make(tmp_path, photographs, captions)
    before = files.train.stat().st_mtime_ns
    assert make(tmp_path, photographs, captions).train.stat().st_mtime_ns == before
    assert make(tmp_path, photographs, captions, scale=0.002).train.stat().st_mtime_ns > before


def test_photographs_that_are_too_few_for_the_links_are_refused(tmp_path, photographs, captions):
    with pytest.raises(UsageError, match="3 photographs are too few for 123,287 names"):
        make(tmp_path, photographs, captions, scale=1)


def test_a_command_is_measured_with_its_children_and_a_failure_is_an_error():
    child = "import time; block = bytearray(100_000_000); time.sleep(1.5); print('done')"
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"
    measured = run([sys.executable, "-c", parent])
    assert measured.seconds >= 1.5
    assert 100 < measured.megabytes < 200
    assert measured.stdout == "done\n"
    with pytest.raises(CaptionerError, match="ended with 7"):
        run([sys.executable, "-c", "raise SystemExit(7)"])
