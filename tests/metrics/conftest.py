"""Random captions for the comparisons with other implementations."""

import random
import subprocess
import sys

import pytest


@pytest.fixture
def random_captions():
    """Return (references, candidates) of a small vocabulary, so that n-grams repeat and match."""

    def make(images, *, shortest, seed=0):
        rng = random.Random(seed)
        words = ["a", "the", "dog", "cat", "man", "on", "in", "of", "red", "runs"]

        def caption():
            return rng.choices(words, weights=range(len(words), 0, -1), k=rng.randint(shortest, 12))

        references = [[caption() for _ in range(rng.randint(1, 6))] for _ in range(images)]
        # Half of the candidates are a reference with one word changed, because independent random
        # captions seldom share an n-gram of four words.
        candidates = [
            caption() if rng.random() < 0.5 else [rng.choice(words), *rng.choice(captions)[1:]]
            for captions in references
        ]
        return references, candidates

    return make


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

    def run(code):
        command = [sys.executable, "-c", code]
        return {
            subprocess.run(
                command, capture_output=True, text=True, check=True, env={"PYTHONHASHSEED": seed}
            ).stdout
            for seed in ("1", "2")
        }

    return run
