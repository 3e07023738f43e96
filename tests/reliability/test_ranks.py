"""Several ranks: unequal shares, another number of ranks when resumed, and a rank that dies."""

import os
import signal
import socket
import subprocess
import time
from datetime import timedelta
from pathlib import Path

import pytest
import torch
import torch.multiprocessing
from trainings import finish, small, start, steps_done

from captioner.data.batching import EpochBatchSampler
from captioner.distributed import process_group
from captioner.training.checkpoint import checkpoints
from captioner.training.recorder import read_log

SLOW_ENOUGH = {
    "phases": [{"epochs": 300}],
    "checkpoint_every": 5,
    "validate_every": 100_000,
    "keep_checkpoints": 2,
}


@pytest.mark.row(3)
@pytest.mark.parametrize(("before", "after"), [(2, 1), (1, 3), (3, 2)])
def test_an_epoch_resumed_with_another_number_of_ranks_visits_each_image_once(before, after):
    def dealt(ranks, first, last):
        samplers = [
            EpochBatchSampler(97, 16, seed=0, rank=rank, num_ranks=ranks) for rank in range(ranks)
        ]
        for sampler in samplers:
            sampler.first_batch = first
        return [
            index
            for sampler in samplers
            for batch in list(sampler)[: last - first]
            for _, index in batch
        ]

    assert sorted(dealt(before, 0, 4) + dealt(after, 4, 7)) == list(range(97))


@pytest.mark.slow
@pytest.mark.row(3)
@pytest.mark.row(12)
@pytest.mark.timeout(600)
def test_a_run_on_two_ranks_with_unequal_shares_is_resumed_on_one_and_takes_as_many_steps(
    tiny, tmp_path
):
    """23 images in batches of 8, and 7 images of dev."""
    import json

    data = {}
    for split, source in (("train", small(tiny).data.train[0]), ("dev", small(tiny).data.dev[0])):
        about = json.loads(source.annotations.read_text())
        about["images"] = about["images"][:-1]
        ids = {image["id"] for image in about["images"]}
        about["annotations"] = [note for note in about["annotations"] if note["image_id"] in ids]
        (tmp_path / f"{split}.json").write_text(json.dumps(about))
        data[split] = {"annotations": tmp_path / f"{split}.json", "images": source.images}
    first = small(tiny, data=data, training={"max_steps": 4})
    code, stderr = finish(start(first, ranks=2))
    assert code == 0, stderr
    code, stderr = finish(start(small(tiny, data=data), "--resume", "auto"))
    assert code == 0, stderr
    assert [line["step"] for line in read_log(tmp_path / "run") if "loss" in line] == [
        1,
        2,
        3,
        4,
        5,
        6,
    ]


@pytest.mark.slow
@pytest.mark.row(11)
@pytest.mark.timeout(600)
def test_a_rank_that_dies_ends_the_run_within_a_minute_and_it_can_be_resumed(tiny, tmp_path):
    config = small(tiny, training=SLOW_ENOUGH)
    run = start(config, ranks=2)
    while steps_done(tmp_path / "run") < 12:
        time.sleep(0.05)
    os.kill(rank_of(run.pid, 1), signal.SIGKILL)
    killed = time.monotonic()
    code, stderr = finish(run)
    assert time.monotonic() - killed < 60
    assert code != 0
    assert "resume from checkpoint-" in stderr
    saved = checkpoints(tmp_path / "run")[-1]
    assert int(saved.name.removeprefix("checkpoint-")) >= 10
    code, stderr = finish(
        start(small(tiny, training=SLOW_ENOUGH | {"max_steps": 40}), "--resume", "auto", ranks=2)
    )
    assert code == 0, stderr
    assert f"resuming from {saved} (step" in stderr


def rank_of(torchrun, rank):
    children = subprocess.run(
        ["pgrep", "-P", str(torchrun)], capture_output=True, text=True, check=True
    ).stdout.split()
    for child in map(int, children):
        if f"RANK={rank}" in Path(f"/proc/{child}/environ").read_text().split("\0"):
            return child
    raise AssertionError


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def _wait_for_a_slow_rank(rank, port, folder, slow):
    os.environ |= {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "RANK": str(rank),
        "WORLD_SIZE": "2",
    }
    with process_group(torch.device("cpu"), timeout=timedelta(seconds=8)) as ranks:
        with ranks.first_rank_first():
            if rank == slow:
                time.sleep(12)
        assert ranks.gather(rank) == [0, 1]
        Path(f"{folder}/{rank}").touch()


@pytest.mark.slow
@pytest.mark.row(35)
@pytest.mark.parametrize("slow", [0, 1], ids=["first", "other"])
def test_ranks_wait_for_one_that_works_for_longer_than_the_time_out_of_the_group(tmp_path, slow):
    arguments = (free_port(), str(tmp_path), slow)
    torch.multiprocessing.spawn(_wait_for_a_slow_rank, arguments, nprocs=2)
    assert {file.name for file in tmp_path.iterdir()} == {"0", "1"}
