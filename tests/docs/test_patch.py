"""The patches of the pages on extending the package apply, and the tests that they add pass."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PATCHES = sorted((ROOT / "docs" / "howto").glob("*.patch"))
COPIED = ("captioner", "configs", "examples", "experiments", "tests")
DIFF = re.compile(r"^```diff\n(.*?)^```$", re.DOTALL | re.MULTILINE)
NEW_TEST = re.compile(r"^--- /dev/null\n\+\+\+ b/(tests/\S+\.py)$", re.MULTILINE)

with_git = pytest.mark.skipif(shutil.which("git") is None, reason="git applies the patches")


def git_apply(folder, *arguments):
    # outside of a repository: inside one, git would take the paths from its top folder
    environment = os.environ | {"GIT_DIR": str(folder / "no-repository")}
    command = ["git", "apply", *map(str, arguments)]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)


@with_git
@pytest.mark.parametrize("patch", PATCHES, ids=lambda path: path.stem)
def test_a_patch_applies_to_the_package(patch):
    run = git_apply(ROOT, "--check", patch)
    assert run.returncode == 0, (
        f"{run.stderr}Change the code by hand as docs/howto/{patch.name} does, then "
        f"`git diff -U1 > docs/howto/{patch.name}`"
    )


@pytest.mark.parametrize("patch", PATCHES, ids=lambda path: path.stem)
def test_each_diff_that_a_page_shows_is_a_part_of_its_patch(patch):
    page, whole = patch.with_suffix(".md").read_text("utf-8"), patch.read_text("utf-8")
    shown = DIFF.findall(page)
    assert shown
    for diff in shown:
        assert diff in whole


def code_lines(text):
    """Return the lines of code of Python, without docstrings of one line, comments and blanks."""
    lines = (line.strip() for line in text.splitlines())
    return [line for line in lines if line and not line.startswith(('"""', "#"))]


def test_the_class_that_the_page_on_contexts_builds_is_that_of_its_patch():
    patch = ROOT / "docs" / "howto" / "add_context.patch"
    block = patch.with_suffix(".md").read_text("utf-8").split("class DotAttention(Context):")[1]
    added = [line[1:] for line in patch.read_text("utf-8").splitlines() if line.startswith("+")]
    assert set(code_lines(block.split("```")[0])) <= set(code_lines("\n".join(added)))


@pytest.mark.docs
@with_git
@pytest.mark.parametrize("patch", PATCHES, ids=lambda path: path.stem)
def test_the_tests_that_a_patch_adds_pass_with_it_and_fail_without_it(patch, tmp_path):
    for name in COPIED:
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, tmp_path / name, ignore=ignored)
    for name in ("pyproject.toml", "CONTRIBUTING.md"):
        shutil.copy(ROOT / name, tmp_path)
    run = git_apply(tmp_path, patch)
    assert run.returncode == 0, run.stderr
    tests = NEW_TEST.findall(patch.read_text("utf-8"))
    assert tests
    environment = os.environ | {"PYTHONPATH": str(tmp_path), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-m", "pytest", "-q", "-n", "0", "-p", "no:cacheprovider"]

    def run_tests(*files):
        return subprocess.run(
            [*command, *files], cwd=tmp_path, env=environment, capture_output=True, text=True
        )

    run = run_tests(*tests, "tests/test_core_path.py")
    assert run.returncode == 0, run.stdout[-2000:] + run.stderr[-2000:]
    assert git_apply(tmp_path, "--reverse", "--exclude=tests/*", patch).returncode == 0
    assert run_tests(*tests).returncode != 0
