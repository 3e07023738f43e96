"""Mutation tests: each change in mutants.yaml breaks the code, and the named test file notices."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
MUTANTS = yaml.safe_load((ROOT / "tests" / "mutants.yaml").read_text(encoding="utf-8"))
TESTS_FAILED = 1  # pytest's exit code; 2 and above mean that the tests did not run


def name_of(mutant):
    return f"{Path(mutant['file']).stem}: {mutant['why']}"


def test_there_are_at_least_forty_mutants_and_no_two_are_equal():
    changes = {(mutant["file"], mutant["before"], mutant["after"]) for mutant in MUTANTS}
    assert len(changes) == len(MUTANTS) >= 40


@pytest.mark.parametrize("mutant", MUTANTS, ids=name_of)
def test_the_code_that_a_mutant_changes_occurs_once(mutant):
    code = (ROOT / mutant["file"]).read_text(encoding="utf-8")
    assert code.count(mutant["before"]) == 1
    assert (ROOT / mutant["tests"]).is_file()


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    """A copy of the package and its tests, to be changed."""
    folder = tmp_path_factory.mktemp("mutant")
    for name in ("captioner", "tests", "examples", "configs"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", folder)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("mutant", MUTANTS, ids=name_of)
def test_a_mutant_makes_its_test_file_fail(mutant, copy):
    file = copy / mutant["file"]
    code = file.read_text(encoding="utf-8")
    file.write_text(code.replace(mutant["before"], mutant["after"]), encoding="utf-8")
    try:
        command = [sys.executable, "-m", "pytest", "-x", "-n", "0", "-p", "no:cacheprovider"]
        environment = os.environ | {"PYTHONPATH": str(copy), "PYTHONDONTWRITEBYTECODE": "1"}
        run = subprocess.run(
            [*command, mutant["tests"]], cwd=copy, env=environment, capture_output=True, text=True
        )
    finally:
        file.write_text(code, encoding="utf-8")
    assert run.returncode == TESTS_FAILED, run.stdout[-2000:] + run.stderr[-2000:]
