"""Small runs for tests, in this process or in another, and a summary of their outcome."""

import hashlib
import os
import subprocess
import sys

import yaml
from safetensors.torch import load_file

from captioner.training.checkpoint import checkpoints

PHASES = [{"epochs": 1}, {"epochs": 1, "finetune_from": "stem", "augmentation": "mild_crop"}]


def small(tiny, **sections):
    """Return the config of a run of six steps in two phases, with a small CNN."""
    training = {"phases": PHASES, "keep_checkpoints": 100} | sections.pop("training", {})
    return tiny(encoder={"trunk": "small_cnn"}, training=training, **sections)


def start(config, *more, ranks=1, **popen):
    """Start `captioner train` on a config; its stderr is a pipe."""
    file = config.output.with_suffix(".yaml")
    file.write_text(yaml.safe_dump(config.to_json()))
    torchrun = (
        ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)]
        if ranks > 1
        else []
    )
    return subprocess.Popen(
        [
            sys.executable,
            *torchrun,
            "-m",
            "captioner",
            "train",
            str(file),
            "--device",
            "cpu",
            *more,
        ],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        **popen,
    )


def finish(process, timeout=200):
    """Wait for a process, and return its exit code and its stderr."""
    stderr = process.communicate(timeout=timeout)[1]
    return process.returncode, stderr


def steps_done(output):
    log = output / "metrics.jsonl"
    return log.read_text().count('"loss"') if log.exists() else 0


def digest(folder):
    """Return the SHA-256 of the weights of a model."""
    tensors = load_file(folder / "model.safetensors")
    hashed = hashlib.sha256()
    for name in sorted(tensors):
        hashed.update(name.encode() + tensors[name].numpy().tobytes())
    return hashed.hexdigest()


def outcome(output):
    """Return what two runs with the same steps have in common, bit for bit."""
    last = checkpoints(output)[-1]
    return (output / "metrics.jsonl").read_bytes(), last.name, digest(last), digest(output / "best")
