"""Several processes as one run: one of them dies, the next run has fewer, and their shares are never quite equal."""

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
from trainings import finish, small, start, steps_done

from captioner.data.batching import EpochSampler
from captioner.training.checkpoint import checkpoints
from captioner.training.plots import read_log

SLOW_ENOUGH = {
    "phases": [{"epochs": 300}],
    "checkpoint_every": 5,
    "validate_every": 100_000,
    "keep_checkpoints": 2,
}


@pytest.mark.row(3)
@pytest.mark.parametrize(("before", "after"), [(2, 1), (1, 3), (3, 2)])
def test_an_epoch_that_goes_on_with_other_ranks_deals_each_image_once(before, after):
    def dealt(ranks, first, last):
        samplers = [EpochSampler(97, 16, seed=0, rank=rank, ranks=ranks) for rank in range(ranks)]
        for sampler in samplers:
            sampler.first = first
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
def test_a_run_on_two_ranks_with_unequal_shares_goes_on_with_one_and_takes_as_many_steps(
    tiny, tmp_path
):
    """23 images in batches of 8, and 7 images of dev."""
    import json

    data = {}
    for split, source in (("train", small(tiny).data.train), ("dev", small(tiny).data.dev)):
        about = json.loads(source.annotations.read_text())
        about["images"] = about["images"][:-1]
        ids = {image["id"] for image in about["images"]}
        about["annotations"] = [note for note in about["annotations"] if note["image_id"] in ids]
        (tmp_path / f"{split}.json").write_text(json.dumps(about))
        data[split] = {"annotations": tmp_path / f"{split}.json", "images": source.images}
    first = small(tiny, data=data, training={"max_steps": 4})
    code, said = finish(start(first, ranks=2))
    assert code == 0, said
    code, said = finish(start(small(tiny, data=data), "--resume", "auto"))
    assert code == 0, said
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
def test_a_rank_that_dies_ends_the_whole_run_within_a_minute_and_it_goes_on(tiny, tmp_path):
    config = small(tiny, training=SLOW_ENOUGH)
    run = start(config, ranks=2)
    while steps_done(tmp_path / "run") < 12:
        time.sleep(0.05)
    os.kill(rank_of(run.pid, 1), signal.SIGKILL)
    killed = time.monotonic()
    code, said = finish(run)
    assert time.monotonic() - killed < 60
    assert code != 0
    assert "go on from checkpoint-" in said
    saved = checkpoints(tmp_path / "run")[-1]
    assert int(saved.name.removeprefix("checkpoint-")) >= 10
    code, said = finish(
        start(small(tiny, training=SLOW_ENOUGH | {"max_steps": 40}), "--resume", "auto", ranks=2)
    )
    assert code == 0, said
    assert f"going on from {saved}" in said


def rank_of(torchrun, rank):
    children = subprocess.run(
        ["pgrep", "-P", str(torchrun)], capture_output=True, text=True, check=True
    ).stdout.split()
    for child in map(int, children):
        if f"RANK={rank}" in Path(f"/proc/{child}/environ").read_text().split("\0"):
            return child
    raise AssertionError
