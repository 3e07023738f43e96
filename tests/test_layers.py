"""Imports go one way: lower layers do not know higher ones."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "captioner"

# From the bottom to the top: a module may import from its own folder and from the rows above it.
LAYERS = [
    {"errors"},
    {"types", "captions", "console", "devices", "distributed", "storage", "locking"},
    {"config"},
    {"text"},
    {"data", "metrics"},
    {"results"},
    {"models", "decoding"},
    {"training", "report"},
    {"inference"},
    {"checkup"},
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


@pytest.mark.parametrize(
    "module",
    [
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
    ],
)
def test_what_answers_wrong_usage_does_not_import_torch(module):
    code = f"import {module}, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
