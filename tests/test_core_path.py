"""The files that a newcomer reads first: listed in CONTRIBUTING.md, and short enough."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
MOST_LINES = 2_100
MOST_MODULES_IN_THE_ROOT = 11


def core_path():
    """The files in the table of CONTRIBUTING.md below the heading "The core path"."""
    section = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8").split("## The core path")[1]
    rows = section.split("\n## ")[0].splitlines()
    return [match[1] for row in rows if (match := re.match(r"\| `(captioner/\S+\.py)` \| \S", row))]


def test_the_core_path_has_twelve_files_of_at_most_2100_lines_in_all():
    files = core_path()
    assert len(files) == len(set(files)) == 12
    lines = sum(len((ROOT / file).read_text(encoding="utf-8").splitlines()) for file in files)
    assert lines <= MOST_LINES


def test_the_root_of_the_package_has_at_most_eleven_modules():
    modules = {file.name for file in (ROOT / "captioner").glob("*.py")}
    assert len(modules - {"__init__.py", "__main__.py"}) <= MOST_MODULES_IN_THE_ROOT
