"""Configs by their built-in names: `captioner train shapes`."""

import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from captioner import load_config
from captioner.config import builtin
from captioner.config.builtin import builtin_configs, find_config
from captioner.errors import UsageError

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_every_config_that_can_be_trained_as_it_is_has_a_name():
    trained = {
        file.stem: file
        for file in (ROOT / "configs").glob("*.yaml")
        if file.read_text().startswith("# captioner train")
    }
    assert builtin_configs() == trained
    assert {"shapes", "flickr8k", "coco", "own"} <= set(trained)
    assert "search" not in trained


def test_a_name_stands_for_the_file():
    assert load_config("shapes") == load_config(ROOT / "configs" / "shapes.yaml")


@pytest.mark.parametrize("name", ["shapes", "shapes.yaml"])
def test_a_file_of_that_name_in_the_current_folder_is_used_first(elsewhere, name):
    (elsewhere / name).write_text("data: {shapes: {folder: mine}}")
    assert load_config("shapes").data.shapes.folder == Path("mine")


def test_a_folder_of_that_name_is_no_config(elsewhere):
    (elsewhere / "shapes").mkdir()
    assert find_config(Path("shapes")) == ROOT / "configs" / "shapes.yaml"


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("shaeps", "shaeps: there is no such file, and no built-in config: .* shapes, summary"),
        ("search", "search: there is no such file, and no built-in config"),
        ("configs/shapes.yaml", "there is no such file: check the path, or write shapes for the"),
        ("configs/nothing.yaml", "nothing.yaml cannot be read: No such file"),
        ("x" * 300, "there is no such file"),
    ],
)
def test_a_config_that_does_not_exist_is_named_with_the_way_out(path, message):
    with pytest.raises(UsageError, match=message):
        load_config(path)


@pytest.mark.parametrize("command", ["train", "check"])
def test_the_commands_take_names_and_say_where_the_data_is_had(run, command):
    code, out, err = run(command, "flickr8k")
    assert (code, out) == (2, "")
    assert "scripts/download_flickr8k.py" in err
    assert "https://github.com/jbrownlee/Datasets" in err
    assert err.count("\n") == 1


def test_an_installation_has_the_configs_within_the_package(tmp_path, monkeypatch):
    package = tmp_path / "site" / "captioner"
    shutil.copytree(ROOT / "configs", package / "configs")
    monkeypatch.setattr(builtin, "_FOLDERS", (package / "configs", tmp_path / "nothing"))
    assert find_config(Path("shapes")) == package / "configs" / "shapes.yaml"
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    wheel = project["tool"]["hatch"]["build"]["targets"]["wheel"]
    assert wheel["only-include"] == ["captioner", "configs"]
    assert wheel["sources"] == {"configs": "captioner/configs"}


def test_the_version_is_printed_without_importing_torch():
    program = (
        "import sys\nfrom captioner.__main__ import main\n"
        "try: main()\nfinally: print('torch' in sys.modules)"
    )
    command = [sys.executable, "-c", program, "--version"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.startswith("captioner 0.")
    assert done.stdout.endswith("False\n")
