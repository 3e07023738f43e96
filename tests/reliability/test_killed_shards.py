"""A sharded run that is killed at any moment has every image exactly once in the end."""

import json
import os
import random
import subprocess
import sys
import time

import pytest

pytestmark = [pytest.mark.row(45), pytest.mark.slow, pytest.mark.timeout(1200)]

IMAGES = 2000
PART_SIZE = 20
KILLS = 20
SHARDS = 4


@pytest.fixture
def folder(shapes, tmp_path):
    """2,000 small images."""
    photos = sorted((shapes / "train").iterdir())
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(IMAGES):
        os.link(photos[number % len(photos)], folder / f"{number:05}.png")
    return folder


@pytest.fixture
def command(folder, onnx_model):
    """The command of a run into a folder, with further arguments."""

    def make(output, *arguments):
        model = ("--model", onnx_model, "--backend", "onnx", "--part-size", PART_SIZE)
        arguments = (folder, "--output", f"{output}/", *model, *arguments)
        return [sys.executable, "-m", "captioner", "caption", *map(str, arguments)]

    return make


def content(folder):
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def images(folder):
    parts = sorted(folder.glob("part-*.jsonl"))
    return [json.loads(line)["image"] for part in parts for line in part.open()]


def test_a_run_killed_twenty_times_has_every_image_exactly_once(command, folder, tmp_path):
    rng = random.Random(0)
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    start = time.monotonic()
    with subprocess.Popen(command(whole)) as process:
        while not list(whole.glob("part-*")):
            assert process.poll() is None
            time.sleep(0.002)
        seconds_to_start = time.monotonic() - start
    assert process.returncode == 0
    seconds_of_a_part = (time.monotonic() - start - seconds_to_start) / (IMAGES / PART_SIZE - 1)
    parts_at_kills = []
    while len(parts_at_kills) < KILLS:
        shard = f"{len(parts_at_kills) % SHARDS + 1}/{SHARDS}"
        process = subprocess.Popen(command(broken, "--shard", shard), stderr=subprocess.DEVNULL)
        before = len(list(broken.glob("part-*"))) if broken.exists() else 0
        # Until some parts are written, and then for a moment of a part; or while it starts.
        more = rng.choice((0, 1, 2))  # so that parts are left for the last kills
        moment = rng.uniform(0, seconds_of_a_part if more else seconds_to_start)
        while more and process.poll() is None and len(list(broken.glob("part-*"))) < before + more:
            time.sleep(0.002)
        time.sleep(moment)
        assert process.poll() is None, "the run ended before it was killed"
        process.kill()
        process.wait()
        parts_at_kills.append(len(list(broken.glob("part-*"))) if broken.exists() else 0)
    print(f"parts after each kill, of {IMAGES // PART_SIZE}: {parts_at_kills}")
    assert parts_at_kills[-1] < IMAGES // PART_SIZE
    for index in range(SHARDS):
        subprocess.run(command(broken, "--shard", f"{index + 1}/{SHARDS}"), check=True)
    assert images(broken) == sorted(str(file) for file in folder.iterdir())
    assert content(broken) == content(whole)


def test_eight_processes_at_once_write_what_one_writes(command, tmp_path):
    subprocess.run(command(tmp_path / "one"), check=True)
    commands = [command(tmp_path / "eight", "--shard", f"{index}/8") for index in range(1, 9)]
    processes = [subprocess.Popen(each) for each in commands]
    assert [process.wait() for process in processes] == [0] * 8
    assert content(tmp_path / "eight") == content(tmp_path / "one")
