"""Random caption sets for the tests that compare with other people's tools."""

import random
import subprocess
import sys

import pytest


@pytest.fixture
def random_captions():
    """Give (references, candidates): image by image, words of a small language, so that n-grams repeat and match."""

    def make(images, *, shortest, seed=0):
        rng = random.Random(seed)
        words = ["a", "the", "dog", "cat", "man", "on", "in", "of", "red", "runs"]

        def caption():
            return rng.choices(words, weights=range(len(words), 0, -1), k=rng.randint(shortest, 12))

        references = [[caption() for _ in range(rng.randint(1, 6))] for _ in range(images)]
        # Half of the candidates are a reference with one word changed: rng alone seldom makes four words match.
        candidates = [
            caption() if rng.random() < 0.5 else [rng.choice(words), *rng.choice(captions)[1:]]
            for captions in references
        ]
        return references, candidates

    return make


@pytest.fixture
def as_coco():
    """Give the form that COCO's tools take: {image: [caption, ...]}."""

    def convert(captions_of_images):
        return {
            i: [" ".join(words) for words in captions]
            for i, captions in enumerate(captions_of_images)
        }

    return convert


@pytest.fixture
def printed():
    """Give all that a piece of code prints in processes which hash strings differently."""

    def run(code):
        command = [sys.executable, "-c", code]
        return {
            subprocess.run(
                command, capture_output=True, text=True, check=True, env={"PYTHONHASHSEED": seed}
            ).stdout
            for seed in ("1", "2")
        }

    return run
