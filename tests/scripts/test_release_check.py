"""The check of a release finds what is missing in a wheel, and what does not belong there."""

import re
import subprocess
import sys
import tarfile
import tomllib
from importlib.util import find_spec
from pathlib import Path
from zipfile import ZipFile

import pytest
import yaml

sys.path.append(str(Path(__file__).parents[2] / "scripts"))

import release_check

ROOT = Path(__file__).parents[2]
VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
LICENSE = "captioner-1.0.dist-info/licenses/LICENSE"


@pytest.fixture
def tree(tmp_path):
    """A source tree with the files that a wheel must have."""
    root = tmp_path / "tree"
    for name in release_check.IN_WHEEL:
        path = root / name.replace("captioner/configs/", "configs/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    return root


@pytest.fixture
def make_wheel(tree, tmp_path):
    """Write a wheel with the right files, without those `without`, and with those of `extra`."""

    def make(without=(), extra=None):
        names = sorted({*release_check.IN_WHEEL, LICENSE} - {*without})
        wheel = tmp_path / "captioner-1.0-py3-none-any.whl"
        with ZipFile(wheel, "w") as archive:
            for name, content in {**dict.fromkeys(names, "x"), **(extra or {})}.items():
                archive.writestr(name, content)
        return wheel

    return make


@pytest.fixture
def problems(make_wheel, tree):
    return lambda **changes: release_check.problems_of_wheel(make_wheel(**changes), tree)


def test_a_wheel_with_the_files_of_its_tree_has_no_problems(problems):
    assert problems() == []


@pytest.mark.parametrize("name", sorted(release_check.IN_WHEEL))
def test_a_missing_file_is_named(problems, tree, name):
    (tree / name.replace("captioner/configs/", "configs/")).unlink()  # not in the tree either
    assert problems(without=[name]) == [f"{name} is missing"]


def test_a_file_of_the_tree_that_the_wheel_lacks_is_named(problems, tree):
    (tree / "captioner" / "new.py").touch()
    (tree / "captioner" / "__pycache__").mkdir()
    (tree / "captioner" / "__pycache__" / "new.pyc").touch()
    assert problems() == ["captioner/new.py is missing"]


def test_a_wheel_without_licence_is_refused(problems):
    assert problems(without=[LICENSE]) == ["LICENSE is missing"]


@pytest.mark.parametrize("name", ["tests/test_x.py", "docs/x.md", "captioner/left.tmp"])
def test_a_file_that_the_tree_lacks_does_not_belong_in_the_wheel(problems, name):
    assert problems(extra={name: "x"}) == [f"{name} does not belong there"]


@pytest.mark.parametrize(
    "content", ["a /home/anna/x", "/Users/anna/x", "in /root/x", "C:\\Users\\anna", "{tree}/x"]
)
def test_a_path_of_the_machine_in_any_file_is_named(problems, tree, content):
    name = "captioner/py.typed"
    [problem] = problems(extra={name: b"\xff" + content.format(tree=tree).encode()})
    assert problem.startswith(f"{name} names a local path: ")


def test_an_address_is_no_path_of_the_machine(problems):
    assert problems(extra={"captioner/py.typed": "https://example.org/homes/a /var/root"}) == []


def test_outputs_of_runs_do_not_belong_in_an_sdist(tmp_path):
    sdist = tmp_path / "captioner-1.0.tar.gz"
    names = [*release_check.IN_SDIST - {"LICENSE"}, "runs/a/best/x", "captioner/data/films.py"]
    with tarfile.open(sdist, "w:gz") as archive:
        for name in names:
            archive.addfile(tarfile.TarInfo(f"captioner-1.0/{name}"))
    assert release_check.problems_of_sdist(sdist) == [
        "LICENSE is missing",
        "runs/a/best/x does not belong there",
    ]


def test_captions_are_compared_with_the_table_of_the_readme():
    table = "| photograph | caption | |\n| `examples/a.jpg` | a cat | unsure |\n"
    table += "| `examples/b.jpg` | a dog |  |\n"
    expected = release_check.captions_of_readme(table)
    assert expected == [("examples/a.jpg", "a cat", "unsure"), ("examples/b.jpg", "a dog", "")]
    same = release_check.parse_captions("x/a.jpg\ta cat\tunsure\nx/b.jpg\ta dog\n")
    assert release_check.differences(same, expected) == []
    other = release_check.parse_captions("x/a.jpg\ta cat\n")
    assert release_check.differences(other, expected) == [
        "examples/a.jpg is 'a cat'",
        "examples/b.jpg is 'missing'",
    ]
    assert release_check.differences(same, [])  # a check of nothing does not pass


def test_the_readme_has_a_caption_for_each_photograph():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    shown = [path for path, _, _ in release_check.captions_of_readme(readme)]
    assert shown == [f"examples/{path.name}" for path in sorted(ROOT.glob("examples/*.jpg"))]


def test_citation_and_change_log_name_the_version_of_the_package(tmp_path):
    assert release_check.version_problems(ROOT) == []
    for name in ("pyproject.toml", "CITATION.cff", "CHANGELOG.md"):
        text = (ROOT / name).read_text(encoding="utf-8")
        if name == "pyproject.toml":
            text = text.replace(f'version = "{VERSION}"', 'version = "9.9.9"')
        (tmp_path / name).write_text(text, encoding="utf-8")
    assert release_check.version_problems(tmp_path) == [
        "CITATION.cff does not name version 9.9.9",
        "CHANGELOG.md does not name version 9.9.9",
    ]


def test_the_citation_is_complete():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["cff-version"] == "1.2.0"
    assert {"message", "title", "authors", "abstract", "license", "keywords"} <= citation.keys()
    assert citation["version"] == VERSION


def test_an_unknown_check_is_refused():
    script = ROOT / "scripts" / "release_check.py"
    process = subprocess.run([sys.executable, script, "lite"], capture_output=True, text=True)
    assert process.returncode == 2
    assert "no check 'lite': choose from files, light, torch" in process.stderr


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.skipif(
    not (find_spec("build") and find_spec("twine")), reason='pip install -e ".[release]"'
)
def test_the_release_of_this_tree_passes():
    script = ROOT / "scripts" / "release_check.py"
    process = subprocess.run([sys.executable, script], capture_output=True, text=True)
    assert process.returncode == 0, process.stdout + process.stderr
    rows = re.findall(r"^\| (.+?) \| (\w+) \|", process.stdout, re.MULTILINE)[1:]
    assert len(rows) == 14
    assert {result for _, result in rows} == {"pass"}
