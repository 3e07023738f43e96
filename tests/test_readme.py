"""The Python example of the README runs as it is written."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.slow
def test_the_python_example_of_the_readme_runs(tmp_path):
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    [example] = re.findall(r"```python\n(.*?)```", readme, re.DOTALL)
    for folder in ("examples", "configs"):
        (tmp_path / folder).symlink_to(ROOT / folder)
    example = example.replace(
        "load_config(", "load_config(overrides=['training.max_steps=2'], path="
    )
    run = subprocess.run(
        [sys.executable, "-c", example], cwd=tmp_path, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
    caption, metrics = run.stdout.splitlines()
    assert re.match(r"[a-z ]+ -\d+\.\d+ 0\.\d+ \(Word\(", caption)
    assert metrics.startswith("{'Bleu_1': ")
