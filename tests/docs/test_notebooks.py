"""The notebooks of the course have the text and the code of their sources, and outputs."""

import json
import re
from pathlib import Path

import pytest

COURSE = Path(__file__).parents[2] / "docs" / "course"
SOURCES = sorted(COURSE.glob("[0-9]*.md"))
MAX_BYTES = 500_000

# ```{code-cell} ipython3, lines of options as `:tags: [hide-input]`, the code, ```
CODE_CELL = re.compile(
    r"^```\{code-cell\}[^\n]*\n(?::[^\n]*\n)*\n?(.*?)\n?^```[ ]*$", re.DOTALL | re.MULTILINE
)
FRONT_MATTER = re.compile(r"\A---\n.*?\n---\n", re.DOTALL)
CELL_BREAK = re.compile(r"^\+\+\+.*$", re.MULTILINE)  # between two cells of text


def read_source(text: str) -> tuple[list[str], list[str]]:
    """Return the code cells, and the lines of text that are not empty."""
    text = FRONT_MATTER.sub("", text)
    code = [cell.strip("\n") for cell in CODE_CELL.findall(text)]
    prose = CELL_BREAK.sub("", CODE_CELL.sub("", text))
    return code, [line.rstrip() for line in prose.splitlines() if line.strip()]


def read_notebook(content: dict) -> tuple[list[str], list[str]]:
    """Return the same of a notebook."""
    cells = [(cell["cell_type"], "".join(cell["source"])) for cell in content["cells"]]
    code = [text.strip("\n") for kind, text in cells if kind == "code"]
    prose = "\n".join(text for kind, text in cells if kind == "markdown")
    return code, [line.rstrip() for line in prose.splitlines() if line.strip()]


def load(source: Path) -> dict:
    return json.loads(source.with_suffix(".ipynb").read_text(encoding="utf-8"))


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)
def test_each_notebook_has_the_code_and_the_text_of_its_source(source):
    assert read_notebook(load(source)) == read_source(source.read_text(encoding="utf-8")), (
        f"{source.stem}.ipynb is older than its source: python scripts/notebooks.py {source.stem}"
    )


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)
def test_each_notebook_was_executed_from_top_to_bottom_and_is_small(source):
    notebook = load(source)
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))
    outputs = [output for cell in code for output in cell["outputs"]]
    assert sum("image/png" in output.get("data", {}) for output in outputs) >= 2
    assert not [output for output in outputs if output["output_type"] == "error"]
    assert source.with_suffix(".ipynb").stat().st_size <= MAX_BYTES


def test_every_notebook_has_a_source_and_the_course_has_chapters():
    assert SOURCES
    assert sorted(COURSE.glob("*.ipynb")) == [path.with_suffix(".ipynb") for path in SOURCES]


def test_a_changed_cell_and_a_changed_sentence_are_noticed():
    source = "---\na: b\n---\n# Title\n\n```{code-cell}\n:tags: [x]\n\nx = 1\n```\n\n+++\n\nEnd.\n"
    same = {
        "cells": [
            {"cell_type": "markdown", "source": ["# Title"]},
            {"cell_type": "code", "source": ["x = 1"]},
            {"cell_type": "markdown", "source": "End."},
        ]
    }
    assert read_source(source) == (["x = 1"], ["# Title", "End."]) == read_notebook(same)
    assert read_source(source.replace("x = 1", "x = 2")) != read_notebook(same)
    assert read_source(source.replace("End.", "Stop.")) != read_notebook(same)
