"""How many files of the package a reader opens to follow a caption, or a training run."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# Prints each file of the package in which a function runs (comprehensions included, class bodies
# and the top level of modules not).
TRACER = """
import inspect, sys, threading
from pathlib import Path

package, files = Path(sys.argv[1]), set()

def profile(frame, event, argument):
    if event == "call" and frame.f_code.co_flags & inspect.CO_OPTIMIZED:
        files.add(frame.f_code.co_filename)

threading.setprofile(profile)
sys.setprofile(profile)
from captioner.cli.app import main
try:
    main(sys.argv[2:])
finally:
    sys.setprofile(None)
    print(*sorted(file for file in files if package in Path(file).parents), sep="\\n")
"""


def files_opened(*arguments, cwd):
    """The files of the package in which a function runs while a command does its work."""
    command = [sys.executable, "-c", TRACER, str(ROOT / "captioner"), *map(str, arguments)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    run = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    return {line for line in run.stdout.splitlines() if line.endswith(".py")}


@pytest.mark.slow
def test_a_caption_takes_functions_of_at_most_33_files(tmp_path):
    """Of the 33, three are asked whether the command is a bulk run, or writes sidecars, or is slow.

    Two more check the name of the trunk, and stand ready for HEIC.
    """
    assert len(files_opened("caption", ROOT / "examples" / "cat.jpg", cwd=tmp_path)) <= 33


@pytest.mark.slow
def test_a_training_run_takes_functions_of_at_most_65_files(tmp_path):
    """Of the 65, three show progress, check the name of the trunk, and stand ready for HEIC."""
    config = ROOT / "configs" / "shapes.yaml"
    steps = ("training.max_steps=2", "training.workers=0")
    assert len(files_opened("train", config, *steps, cwd=tmp_path)) <= 65
