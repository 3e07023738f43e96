"""A kill while a checkpoint is written: the one before is intact, the next start cleans up."""

import random
import signal
import subprocess
import sys
import time

import pytest
from trainings import small

from captioner.storage import recover_from_crash, verify_checksums
from captioner.training.train import train

pytestmark = pytest.mark.row(4)

SAVER = """
import sys
from pathlib import Path
from captioner.storage import atomic_folder
number = 0
while True:
    number += 1
    with atomic_folder(Path(sys.argv[1]) / "model") as place:
        (place / "file").write_bytes(bytes([number % 256]) * 100_000_000)
    print(number, flush=True)
"""


@pytest.mark.slow
def test_each_of_twenty_kills_while_saving_leaves_an_intact_folder(tmp_path):
    rng = random.Random(0)
    for _ in range(20):
        saver = subprocess.Popen(
            [sys.executable, "-c", SAVER, str(tmp_path)], stdout=subprocess.PIPE
        )
        saver.stdout.readline()
        time.sleep(rng.uniform(0, 0.6))
        saver.send_signal(signal.SIGKILL)
        saver.wait()
        recover_from_crash(tmp_path)
        verify_checksums(tmp_path / "model")
        assert [path.name for path in tmp_path.iterdir()] == ["model"]


@pytest.mark.parametrize("resume", ["auto", None])
def test_the_next_start_removes_unfinished_folders(tiny, tmp_path, resume):
    for name in ("checkpoint-1.captioner-tmp", "best.captioner-tmp"):
        (tmp_path / "run" / name).mkdir(parents=True)
    train(small(tiny, training={"max_steps": 1}), device="cpu", resume=resume)
    assert not list((tmp_path / "run").glob("*.captioner-tmp"))
