"""The steps of the rehearsal that run in a child process, and print what they took as JSON."""

from __future__ import annotations

import json
import os
import random
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path

BEGUN = time.monotonic()


def train(output: str, stage: str, *changes: str) -> dict[str, float]:
    """Train, and return when the first step was taken and how long a step takes.

    Args:
        output: the folder of the run.
        stage: "first step": end there; "new" or "resume": train to the end.
        changes: of configs/coco.yaml.
    """
    from torch.optim.optimizer import register_optimizer_step_post_hook

    from captioner import train as run_training
    from captioner.models.folder import load_config

    if stage != "resume":
        shutil.rmtree(output, ignore_errors=True)
    taken: list[float] = []

    def note(*_: object) -> None:
        taken.append(time.monotonic() - BEGUN)
        if stage == "first step":
            print(json.dumps({"first step after": taken[0]}), flush=True)
            os._exit(0)

    register_optimizer_step_post_hook(note)
    config = load_config(Path("coco"), changes, output=Path(output))
    run_training(config, resume="auto" if stage == "resume" else None)
    seconds = time.monotonic() - BEGUN
    return {
        "first step after": taken[0],
        "steps": len(taken),
        "seconds of the steps": taken[-1] - taken[0],
        "validation and end": seconds - taken[-1],
    }


def reward(annotations: str) -> dict[str, float]:
    """Prepare the reward of self-critical training, and score the captions of an epoch."""
    from captioner.data.datasets import load_references
    from captioner.metrics.reward import Reward
    from captioner.text.tokenizer import tokenize

    texts = load_references(Path(annotations)).values()
    references = [[tokenize(text) for text in each] for each in texts]
    read = time.monotonic() - BEGUN
    metric = Reward(references, {"CIDEr": 1.0})
    prepared = time.monotonic() - BEGUN
    rng = random.Random(0)
    order = rng.sample(range(len(references)), len(references))
    for first in range(0, len(order), 256):
        images = [image for image in order[first : first + 256] for _ in range(5)]
        captions: Sequence[Sequence[str]] = [rng.choice(rng.choice(references)) for _ in images]
        metric(images, captions)
    return {
        "references read after": read,
        "document frequencies counted in": prepared - read,
        "an epoch of rewards in": time.monotonic() - BEGUN - prepared,
    }


if __name__ == "__main__":
    name, *arguments = sys.argv[1:]
    print(json.dumps({"train": train, "reward": reward}[name](*arguments)))
