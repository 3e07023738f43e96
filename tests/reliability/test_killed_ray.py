"""A run over Ray whose actors and driver are killed has every image exactly once in the end."""

import json
import os
import random
import signal
import subprocess
import sys
import time

import pytest
import ray_processes

pytest.importorskip("ray", reason="Ray is not installed: pip install 'ray[data]'")

pytestmark = [pytest.mark.row(45), pytest.mark.slow, pytest.mark.timeout(3600)]

IMAGES = 2000
PART_SIZE = 20
REPETITIONS = int(os.environ.get("CAPTIONER_KILLS", "5"))
PATIENCE = 240  # seconds, on a machine with other work


@pytest.fixture
def folder(shapes, tmp_path):
    """2,000 small images, one of them broken."""
    photos = sorted((shapes / "train").iterdir())
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(IMAGES - 1):
        os.link(photos[number % len(photos)], folder / f"{number:05}.png")
    (folder / "broken.jpg").write_bytes(b"no image")
    return folder


@pytest.fixture
def command(folder, onnx_model):
    """The command of a run into a folder, with further arguments."""

    def make(output, *arguments, images=folder, part_size=PART_SIZE):
        model = ("--model", onnx_model, "--backend", "onnx", "--part-size", part_size)
        arguments = (images, "--output", f"{output}/", *model, *arguments)
        return [sys.executable, "-m", "captioner", "caption", *map(str, arguments)]

    return make


@pytest.fixture
def start():
    """Start a command, which is killed at the end of a test if it still runs."""
    started = []

    def start(command):
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        started.append(process)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            for pid in [*ray_processes.descendants(process.pid), process.pid]:
                ray_processes.kill(pid)
        process.communicate()


def wait_for(condition, process=None):
    """Wait until a condition holds, and return its value."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        if value := condition():
            return value
        assert process is None or process.poll() is None, process.communicate()
        time.sleep(0.01)
    raise AssertionError("it took too long")


def parts(folder):
    return sorted(folder.glob("part-*.jsonl"))


def content(folder):
    return {file.name: file.read_bytes() for file in folder.iterdir()}


@pytest.fixture
def killed(command, start):
    """Start a run over Ray, kill one of its actors and then its driver, each at some moment."""

    def run(output, num_actors, rng):
        process = start(command(output, "--ray", "--actors", num_actors))
        first, more = rng.choice((0, 1, 3)), rng.choice((1, 2))
        wait_for(lambda: len(parts(output)) >= first, process)
        actors = wait_for(lambda: ray_processes.actors(process.pid), process)
        time.sleep(rng.uniform(0, 0.3))
        ray_processes.kill(rng.choice(actors))
        at_kill = len(parts(output))
        wait_for(lambda: len(parts(output)) >= at_kill + more, process)
        time.sleep(rng.uniform(0, 0.3))
        assert process.poll() is None, "the run ended before its driver was killed"
        running = ray_processes.descendants(process.pid)
        process.kill()
        process.communicate()
        wait_for(lambda: not ray_processes.are_running(running))
        return at_kill, len(parts(output))

    return run


def test_a_killed_actor_and_then_a_killed_driver_cost_no_image(
    command, start, killed, folder, tmp_path
):
    subprocess.run(command(tmp_path / "whole"), capture_output=True, check=False)
    whole = content(tmp_path / "whole")
    rng = random.Random(0)
    for repetition in range(REPETITIONS):
        output = tmp_path / f"broken-{repetition}"
        numbers = killed(output, 1 + repetition % 2, rng)
        print(f"parts when an actor was killed, and when the driver was: {numbers}", flush=True)
        assert numbers[1] < len(whole) - 1
        on_ray = ("--ray", "--actors", 1) if repetition % 3 < 2 else ()
        second = start(command(output, *on_ray))
        stderr = second.communicate(timeout=PATIENCE)[1]
        assert second.returncode == 3, stderr
        assert "images were captioned by an earlier run" in stderr
        rows = [json.loads(line)["image"] for part in parts(output) for line in part.open()]
        assert rows == sorted(str(file) for file in folder.iterdir())
        assert content(output) == whole


def test_a_part_whose_actor_dies_three_times_is_left_out_and_named(
    command, start, folder, tmp_path
):
    for number, image in enumerate(sorted(folder.iterdir())):
        if number >= 2 * PART_SIZE:
            image.unlink()
    output = tmp_path / "out"
    process = start(command(output, "--ray", "--actors", "1"))
    killed = set()
    while len(killed) < 3:
        # Ray renames an actor when it takes its first task.
        [actor] = wait_for(
            lambda: [
                pid
                for pid, name in ray_processes.descendants(process.pid).items()
                if name.startswith(ray_processes.ACTOR) and b".submit" in name and pid not in killed
            ],
            process,
        )
        ray_processes.kill(actor)
        killed.add(actor)
    stdout, stderr = process.communicate(timeout=PATIENCE)
    assert (process.returncode, stdout) == (3, "")
    assert "1 part (0) not written: the process died 3 times in each" in stderr
    assert [part.name for part in parts(output)] == ["part-00000001.jsonl"]
    assert subprocess.run(command(output), capture_output=True, check=False).returncode == 0
    assert len(parts(output)) == 2


def test_an_interrupted_run_ends_its_cluster_and_says_how_to_continue(
    command, start, folder, tmp_path
):
    output = tmp_path / "out"
    process = start(command(output, "--ray", "--actors", "1"))
    wait_for(lambda: parts(output), process)
    running = ray_processes.descendants(process.pid)
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=PATIENCE)
    assert (process.returncode, stdout) == (130, "")
    assert "run the same command again to continue" in stderr
    assert "captioner: interrupted" in stderr
    assert "Traceback" not in stderr
    wait_for(lambda: not ray_processes.are_running(running))
