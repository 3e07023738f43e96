"""Comparisons with other implementations, and between two processes."""

import subprocess
import sys

import pytest


@pytest.fixture
def as_coco():
    """Return captions in the form of COCO's tools: {image: [caption, ...]}."""

    def convert(captions_of_images):
        return {
            i: [" ".join(words) for words in captions]
            for i, captions in enumerate(captions_of_images)
        }

    return convert


@pytest.fixture
def printed():
    """Return the set of outputs of a program under two seeds of Python's string hash."""

    def run(code, **environment):
        command = [sys.executable, "-c", code]
        environments = [environment | {"PYTHONHASHSEED": seed} for seed in ("1", "2")]
        return {
            subprocess.run(command, capture_output=True, text=True, check=True, env=each).stdout
            for each in environments
        }

    return run
