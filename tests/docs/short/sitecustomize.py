"""Started with each Python process of a page: configs are those of a training of two steps.

What `captioner.load_config` returns, to the command line too, is as it was written but for small
data, small images, no pretrained weights and two steps. SNIPPETS_SETTINGS holds more settings.
"""

import json
import os
import sys
from functools import wraps
from importlib.abc import MetaPathFinder
from importlib.machinery import PathFinder

MODULE = "captioner.models.folder"


def short(config):
    """Return the settings that make a training of this config short."""
    training = ["max_steps=2", "workers=0", "validation_beam=1", "precision=fp32"]
    settings = [f"training.{setting}" for setting in training] + ["data.min_count=1"]
    if config.data.shapes:
        settings += ["data.shapes.train=60", "data.shapes.dev=8"]
    if config.data.generated:
        settings += ["data.generated.train=200", "data.generated.dev=20"]
    if config.init is None:
        settings += ["decoder.embed_size=32", "decoder.hidden_size=32"]
    if config.init is None and config.encoder.kind == "text":
        settings += ["encoder.embed_size=32", "encoder.hidden_size=32"]
    if config.init is None and config.encoder.kind == "image":
        settings.append("encoder.image_size=64")
        if config.encoder.weights == "default":  # a download
            settings.append("encoder.weights=none")
        if config.encoder.trunk.startswith("resnet"):
            settings.append("encoder.trunk=resnet18")
    return settings + json.loads(os.environ.get("SNIPPETS_SETTINGS", "[]"))


def shortened(load):
    @wraps(load)
    def load_config(path, overrides=(), *, output=None):
        config = load(path, overrides, output=output)
        return load(path, [*overrides, *short(config)], output=output)

    return load_config


class Finder(MetaPathFinder):
    """Wraps `load_config` where its module is imported."""

    def find_spec(self, name, path, target=None):
        if name != MODULE:
            return None
        spec = PathFinder.find_spec(name, path, target)
        run = spec.loader.exec_module

        def exec_module(module):
            run(module)
            module.load_config = shortened(module.load_config)

        spec.loader.exec_module = exec_module
        return spec


sys.meta_path.insert(0, Finder())
