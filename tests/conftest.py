"""Shared fixtures: a tiny data set, a tiny run on it, a browser, and the research data."""

import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from data_sets import DataSet
from hubs import hub, hub_offline, hub_token  # noqa: F401  (fixtures)
from PIL import Image
from torch import nn

from captioner import Captioner, Translator
from captioner.cli.app import main
from captioner.config.run import Config
from captioner.config.schema import (
    ConfidenceConfig,
    DecoderConfig,
    ImageEncoderConfig,
    ModelConfig,
    TextEncoderConfig,
)
from captioner.data.datasets import load_references
from captioner.data.shapes import draw_shapes
from captioner.models.build import build_model
from captioner.storage import write_checksums
from captioner.text.multilingual import WordTokenizer
from captioner.text.tokenizer import EOS, Vocabulary, tokenize

# METEOR's table takes seconds to read; tests of METEOR itself turn it on.
os.environ["CAPTIONER_METEOR"] = "off"
torch.set_num_threads(1)  # fast for tiny tensors, and results do not depend on the machine


@pytest.fixture(scope="session")
def shapes(tmp_path_factory):
    """Draw a small data set in COCO's format."""
    folder = tmp_path_factory.mktemp("shapes")
    draw_shapes(folder, train=24, dev=8)
    return folder


@pytest.fixture
def data_set(tmp_path):
    """Make a data set of distinct photographs, for tests that damage it."""
    return DataSet(tmp_path / "data")


@pytest.fixture
def tiny(shapes, tmp_path):
    """Make the config of a run that takes seconds: `tiny(training={...})` changes settings."""

    def make(**sections):
        values = {
            "data": {
                "train": {
                    "annotations": shapes / "captions_train.json",
                    "images": shapes / "train",
                },
                "dev": {"annotations": shapes / "captions_dev.json", "images": shapes / "dev"},
                "min_count": 1,
            },
            "encoder": {"trunk": "small_cnn", "weights": "none", "image_size": 32},
            "decoder": {"embed_size": 16, "hidden_size": 16, "dropout": 0.2},
            "training": {"batch_size": 8, "workers": 0, "phases": [{"epochs": 2}]},
            "output": tmp_path / "run",
        }
        for name, settings in sections.items():
            values[name] = (
                values.get(name, {}) | settings if isinstance(settings, dict) else settings
            )
        return Config.parse(values, source="tiny")

    return make


@pytest.fixture(scope="session")
def research_data():
    """The folder of the research data, which is not part of the project."""
    folder = os.environ.get("CAPTIONER_DATA")
    if not folder or not Path(folder).is_dir():
        pytest.skip("CAPTIONER_DATA does not name the folder of the research data")
    return Path(folder)


@torch.no_grad()
def tell_images_apart(encoder, files, size):
    """Give batch norms the statistics of some images, whose features are else nearly the same."""
    images = [Image.open(file).convert("RGB").resize((size, size)) for file in files]
    norms = [module for module in encoder.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.train()
        norm.momentum = 1.0
    encoder(torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2))  # (B, 3, S, S) bytes
    for norm in norms:
        norm.momentum = 0.1


@pytest.fixture(scope="session")
def untrained(shapes, tmp_path_factory):
    """Make a model folder, `best` in its run, with random weights."""
    references = load_references(shapes / "captions_train.json").values()
    captions = [tokenize(caption) for texts in references for caption in texts]
    vocabulary = Vocabulary.from_captions(captions, min_count=1)

    def make(trunk="small_cnn", image_size=32, **decoder):
        torch.manual_seed(3)
        config = ModelConfig(
            encoder=ImageEncoderConfig(trunk=trunk, weights="none", image_size=image_size),
            decoder=DecoderConfig(embed_size=16, hidden_size=16, **decoder),
        )
        model = build_model(config, vocab_size=len(vocabulary))
        tell_images_apart(model.encoder, sorted((shapes / "train").iterdir()), image_size)
        model.decoder.output.bias.data[EOS] = -3  # else captions would be empty
        folder = tmp_path_factory.mktemp("run") / "best"
        Captioner([model], vocabulary, config, device="cpu").save_pretrained(folder)
        return folder

    return make


@pytest.fixture(scope="session")
def tiny_model(untrained):
    """A model without attention."""
    return untrained()


@pytest.fixture(scope="session")
def attentive_model(untrained):
    """A model with attention to a grid of 2 x 2."""
    return untrained(image_size=128, context="attention", attention_size=16)


@pytest.fixture(scope="session")
def with_graphs(tmp_path_factory):
    """Return a function that copies a model folder and adds the graphs of its model."""
    pytest.importorskip("onnx")
    from captioner.export.onnx import write_graphs

    def copy(folder):
        exported = tmp_path_factory.mktemp("exported") / "model"
        shutil.copytree(folder, exported)
        write_graphs(exported)
        write_checksums(exported)
        return exported

    return copy


@pytest.fixture(scope="session")
def onnx_model(tiny_model, with_graphs, tmp_path_factory):
    """A calibrated model without attention, with its graphs."""
    captioner = Captioner.from_pretrained(tiny_model, device="cpu")
    confidence = ConfidenceConfig(temperature=2.0, error=0.1, images=9, threshold=0.4)
    config = captioner.config.model_copy(update={"confidence": confidence})
    folder = tmp_path_factory.mktemp("calibrated") / "model"
    Captioner(captioner.models, captioner.vocabulary, config, device="cpu").save_pretrained(folder)
    return with_graphs(folder)


@pytest.fixture(scope="session")
def attentive_onnx_model(attentive_model, with_graphs):
    """A model with attention to a grid of 2 x 2, with its graphs."""
    return with_graphs(attentive_model)


@pytest.fixture(scope="session")
def untrained_translator(tmp_path_factory):
    """Make the folder of a model of text with random weights."""
    texts = ("a the dog cat bird man runs sleeps sings .", "ein der Hund Vogel läuft .")

    def make(seed=3, tokenizer=None, **decoder):
        tokenizer = tokenizer or WordTokenizer()
        source, target = (
            Vocabulary.from_captions([tokenizer.tokenize(text)], min_count=1, tokenizer=tokenizer)
            for text in texts
        )
        torch.manual_seed(seed)
        config = ModelConfig(
            encoder=TextEncoderConfig(embed_size=8, hidden_size=8),
            decoder=DecoderConfig(embed_size=8, hidden_size=8, attention_size=8, **decoder),
        )
        model = build_model(config, vocab_size=len(target), source_vocab_size=len(source))
        model.decoder.output.bias.data[EOS] = -1  # else most texts would be empty
        folder = tmp_path_factory.mktemp("run") / "best"
        translator = Translator([model], target, config, source_vocabulary=source, device="cpu")
        translator.save_pretrained(folder)
        return folder

    return make


@pytest.fixture(scope="session")
def tiny_translator(untrained_translator):
    """A model of text with attention."""
    return untrained_translator(context="attention")


@pytest.fixture
def photo(shapes):
    """One image of the small data set."""
    return sorted((shapes / "dev").iterdir())[0]


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
def run(capsys):
    """Run a command line; return the exit code, stdout and stderr."""

    def call(*arguments):
        code = 0
        try:
            main([str(argument) for argument in arguments])
        except SystemExit as end:
            code = end.code or 0
        return (code, *capsys.readouterr())

    return call


@pytest.fixture(scope="session")
def chromium():
    """A browser; the test is skipped without Playwright and a Chromium."""
    playwright = pytest.importorskip(
        "playwright.sync_api", reason="Playwright is not installed: pip install playwright"
    )
    names = ("chromium", "chromium-browser", "google-chrome")
    program = next(filter(None, map(shutil.which, names)), None)
    if program is None:
        pytest.skip(f"no browser: none of {', '.join(names)} is on the path")
    with playwright.sync_playwright() as running:
        browser = running.chromium.launch(
            executable_path=program,
            # CI runs as root and has no camera: Chromium draws what one would see.
            args=["--no-sandbox", "--use-fake-device-for-media-stream"],
        )
        yield browser
        browser.close()


@pytest.fixture
def train_on_two_ranks(tmp_path):
    """Return a function that trains under torchrun on two CPU ranks, and returns the output."""

    def run(config):
        file = tmp_path / "config.yaml"
        file.write_text(yaml.safe_dump(config.to_json()))
        torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
        done = subprocess.run(
            [sys.executable, *torchrun, "-m", "captioner", "train", str(file), "--device", "cpu"],
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            timeout=200,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run
