"""Imports go one way: lower layers do not know higher ones."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "captioner"

# From the bottom to the top: a module may import from its own folder and from the rows above it.
LAYERS = [
    {"errors", "captions"},
    {"types", "console", "devices", "distributed", "storage", "locking", "requirements"},
    {"hub_names"},
    {"progress"},
    {"config"},
    {"text"},
    {"data", "metrics"},
    {"results"},
    {"models", "decoding"},
    {"runtime"},
    {"training", "report"},
    {"inference"},
    {"bulk", "checkup", "export", "serve"},
    {"cli"},
    {"__main__", "__init__"},
]


def room_of(module):
    """captioner.data.images → data."""
    return module.split(".")[1] if "." in module else "__init__"


def imported_by(file):
    """Every module of ours that a file imports, but for what only the type checker reads."""
    for node in ast.walk(ast.parse(file.read_text())):
        if (
            isinstance(node, ast.ImportFrom)
            and node.module
            and node.module.split(".")[0] == "captioner"
        ):
            yield node.module


def height(room):
    return next(number for number, rooms in enumerate(LAYERS) if room in rooms)


@pytest.mark.parametrize(
    "file", sorted(PACKAGE.rglob("*.py")), ids=lambda file: str(file.relative_to(PACKAGE))
)
def test_lower_layers_do_not_know_higher_ones(file):
    room = file.relative_to(PACKAGE).parts[0].removesuffix(".py")
    for module in imported_by(file):
        other = room_of(module)
        if other in (room, "__init__"):
            continue
        assert height(other) < height(room), f"{room} imports {other}"


WITHOUT_TORCH = [
    "captioner.cli.app",
    *(
        f"captioner.cli.{name}"
        for name in (
            "caption",
            "calibrate",
            "check",
            "compare",
            "defaults",
            "evaluate",
            "score",
            "train",
            "translate",
        )
    ),
    "captioner",
    "captioner.inference.evaluate",
    "captioner.inference.evaluate_text",
    "captioner.models.folder",
]

IMPORT_EACH = """
import importlib, sys

for name in sys.argv[1:]:
    importlib.import_module(name)
    if "torch" in sys.modules:
        print(name)
        break
"""


def test_what_answers_wrong_usage_does_not_import_torch():
    assert printed_by(IMPORT_EACH, *WITHOUT_TORCH) == []


# `torchvision` and `torch._dynamo` take seconds to import, and captioning needs neither. In both
# tests, one process does the work, and says which of the two it has imported.

SLOW_IMPORTS = "sorted({'torchvision', 'torch._dynamo'} & sys.modules.keys())"

CAPTION_AND_EVALUATE = f"""
import sys
from captioner import Captioner, evaluate

annotations, images, photo, folder = sys.argv[1:]
for model in (None, folder):
    captioner = Captioner.from_pretrained(*([model] if model else []), device="cpu")
    assert captioner.caption(photo).text
evaluate(annotations, images=images, model=captioner)
print({SLOW_IMPORTS})
"""

TRAIN = f"""
import json, sys
from captioner import Config, train
from captioner.training import trainer

def make_optimizer(*arguments, make=trainer.make_optimizer, **settings):
    print({SLOW_IMPORTS})
    return make(*arguments, **settings)

trainer.make_optimizer = make_optimizer
train(Config.parse(json.loads(sys.argv[1]), source="test"), device="cpu")
print({SLOW_IMPORTS})
"""


def printed_by(code, *arguments):
    command = [sys.executable, "-c", code, *map(str, arguments)]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    return run.stdout.splitlines()


def test_captioning_and_evaluating_import_neither_torchvision_nor_dynamo(shapes, photo, tiny_model):
    arguments = (shapes / "captions_dev.json", shapes / "dev", photo, tiny_model)
    assert printed_by(CAPTION_AND_EVALUATE, *arguments)[-1] == "[]"


def test_training_imports_no_torchvision_and_dynamo_only_with_the_optimizer(tiny):
    config = tiny(training={"max_steps": 2}).to_json()
    before_the_optimizer, *_, after = printed_by(TRAIN, json.dumps(config))
    assert before_the_optimizer == "[]"
    # the constructor of every optimizer of PyTorch imports dynamo
    assert "torchvision" not in after
