"""Too little memory: the message names what to lower, and `auto` finds micro-batches that fit."""

import os
import resource
import subprocess
import sys

import pytest
import torch
from trainings import outcome, small

import captioner.training.loop as loop
from captioner.errors import CaptionerError
from captioner.training.checkpoint import checkpoints
from captioner.training.loop import accumulate_gradients
from captioner.training.train import train

pytestmark = pytest.mark.row(8)


def no_room_for_more_than(images, monkeypatch, error):
    """Fail on larger micro-batches after their gradients, as with too little memory."""

    def narrow(objective, micro_batches, **more):
        output = accumulate_gradients(objective, micro_batches, **more)
        if any(len(batch.example_index) > images for batch in micro_batches):
            raise error
        return output

    monkeypatch.setattr(loop, "accumulate_gradients", narrow)


GPU = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
CPU = RuntimeError(
    "[enforce fail at alloc_cpu.cpp:127] . DefaultCPUAllocator: can't allocate memory: you ..."
)


@pytest.mark.parametrize("error", [GPU, CPU, MemoryError()], ids=["gpu", "cpu", "python"])
def test_the_message_names_the_batch_size_and_what_to_lower(tiny, tmp_path, monkeypatch, error):
    with monkeypatch.context() as patch:
        no_room_for_more_than(7, patch, error)
        with pytest.raises(
            CaptionerError,
            match=r"out of memory with training\.batch_size=8.*set training\.accumulate to",
        ):
            train(small(tiny), device="cpu")
    assert not checkpoints(tmp_path / "run")


@pytest.mark.parametrize(("room", "parts"), [(8, 1), (3, 4)])
def test_auto_finds_the_fewest_micro_batches_that_fit_and_equals_a_run_with_that_number(
    tiny, tmp_path, monkeypatch, capsys, room, parts
):
    train(small(tiny, output=tmp_path / "fixed", training={"accumulate": parts}), device="cpu")
    no_room_for_more_than(room, monkeypatch, GPU)
    train(small(tiny, output=tmp_path / "auto", training={"accumulate": "auto"}), device="cpu")
    assert ("processed in 4 micro-batches from here on" in capsys.readouterr().err) == (parts == 4)
    assert outcome(tmp_path / "auto") == outcome(tmp_path / "fixed")


def test_a_resumed_run_keeps_the_number_of_micro_batches(tiny, tmp_path, monkeypatch):
    settings = {"phases": [{"epochs": 2}], "validate_every": 100, "accumulate": 4}
    train(small(tiny, output=tmp_path / "fixed", training=settings), device="cpu")
    with monkeypatch.context() as patch:
        no_room_for_more_than(3, patch, GPU)
        train(small(tiny, training=settings | {"accumulate": "auto", "max_steps": 2}), device="cpu")
    train(small(tiny, training=settings | {"accumulate": "auto"}), device="cpu", resume="auto")
    assert outcome(tmp_path / "run")[1:3] == outcome(tmp_path / "fixed")[1:3]


def test_a_step_whose_single_images_do_not_fit_fails(tiny, monkeypatch):
    no_room_for_more_than(0, monkeypatch, GPU)
    with pytest.raises(CaptionerError, match=r"out of memory with training\.batch_size=8"):
        train(small(tiny, training={"accumulate": "auto"}), device="cpu")


IN_LITTLE_MEMORY = """
import resource, sys
from pathlib import Path
import matplotlib.figure, torch
from torch.utils.tensorboard import SummaryWriter
from captioner.training.train import train
from captioner.models.folder import load_config
torch.set_num_threads(1)
# Allocate what the libraries need once, before the limit is set.
torch.nn.Conv2d(3, 3, 3)(torch.zeros(1, 3, 8, 8)).sum().backward()
config = load_config(Path(sys.argv[1]), sys.argv[3:])
pages = int(Path("/proc/self/statm").read_text().split()[0])
limit = pages * resource.getpagesize() + int(sys.argv[2]) * 2**20
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
train(config, device="cpu")
"""


@pytest.mark.slow
@pytest.mark.skipif(
    not hasattr(resource, "RLIMIT_AS") or sys.platform != "linux",
    reason="limits memory as Linux does",
)
def test_in_a_process_with_little_memory_one_micro_batch_fails_and_auto_succeeds(tiny, tmp_path):
    import yaml

    whole = {"phases": [{"epochs": 2, "finetune_from": "stem"}], "batch_size": 24}
    config = tiny(encoder={"image_size": 512, "trunk": "small_cnn"}, training=whole)
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config.to_json()))
    said = {}
    for parts in ("1", "auto"):
        more = [f"training.accumulate={parts}", f"output={tmp_path / parts}"]
        command = [
            sys.executable,
            "-c",
            IN_LITTLE_MEMORY,
            str(tmp_path / "config.yaml"),
            "700",
            *more,
        ]
        returns_memory = os.environ | {
            "MALLOC_MMAP_THRESHOLD_": "1000000",
            "OMP_NUM_THREADS": "1",
        }  # glibc's malloc
        run = subprocess.run(
            command, env=returns_memory, capture_output=True, text=True, check=False, timeout=280
        )
        said[parts] = run.stderr
    assert "out of memory with training.batch_size=24" in said["1"]
    assert checkpoints(tmp_path / "auto"), said["auto"]
    assert "micro-batches from here on" in said["auto"]
