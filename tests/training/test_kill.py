"""A run that is killed, not stopped: SIGKILL, then resume, and nothing is lost."""

import os
import signal
import subprocess
import sys
import time

import pytest
import torch
import yaml
from safetensors.torch import load_file

from captioner.parsing import to_json
from captioner.training.checkpoint import checkpoints


def command(file, output, *more):
    return [sys.executable, "-m", "captioner", "train", str(file), "--device", "cpu", "--output", str(output), *more]


def steps_done(output):
    log = output / "metrics.jsonl"
    return log.read_text().count('"loss"') if log.exists() else 0


@pytest.mark.slow
def test_killed_runs_end_with_the_unbroken_runs_log_and_weights(tiny, tmp_path):
    phases = [{"epochs": 3}, {"epochs": 1, "finetune_from": "layer4", "augmentation": "mild_crop"}]
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump(to_json(tiny(training={"phases": phases, "checkpoint_every": 2, "workers": 1}))))
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    unbroken, broken = tmp_path / "unbroken", tmp_path / "broken"
    subprocess.run(command(file, unbroken), env=environment, check=True, capture_output=True)

    for moment in (3, 7, 10):  # within an epoch, at the next one's start, within the second phase
        run = subprocess.Popen(command(file, broken, "--resume", "auto"), env=environment, stderr=subprocess.DEVNULL)
        while steps_done(broken) < moment and run.poll() is None:
            time.sleep(0.01)
        run.send_signal(signal.SIGKILL)
        run.wait()
    subprocess.run(command(file, broken, "--resume", "auto"), env=environment, check=True, capture_output=True)

    assert (unbroken / "metrics.jsonl").read_bytes() == (broken / "metrics.jsonl").read_bytes()
    for name in ("best", checkpoints(unbroken)[-1].name):
        ours, theirs = (load_file(folder / name / "model.safetensors") for folder in (unbroken, broken))
        assert all(torch.equal(ours[tensor], theirs[tensor]) for tensor in ours | theirs)
    assert not [path.name for path in broken.iterdir() if path.suffix in (".tmp", ".old")]
