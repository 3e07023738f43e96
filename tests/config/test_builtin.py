"""Configs by their built-in names: `captioner train shapes`."""

import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from captioner import load_config
from captioner.config import builtin
from captioner.config.builtin import builtin_configs, find_config, is_config
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


def test_check_takes_the_names_that_train_takes(elsewhere, run):
    (elsewhere / "mine.yaml").write_text("data: {shapes: {folder: mine}, dropuot: 1}")
    (elsewhere / "pictures").mkdir()
    (elsewhere / "pictures.yaml").touch()
    names = ["mine", "mine.yaml", "shapes", "nothing.yaml", "nothing", "pictures", "a/mine"]
    assert [is_config(Path(name)) for name in names] == [*[True] * 4, *[False] * 3]
    for command in ("train", "check"):
        code, out, err = run(command, "mine", "data.max_length=20")
        assert (code, out) == (2, "")
        assert "unknown key 'data.dropuot'" in err


@pytest.mark.parametrize("name", ["flickr8k", "coco", "multi30k", "multi30k_sutskever", "bundled"])
def test_a_config_of_public_data_names_an_address_of_it(name):
    # the folders docs and scripts are not part of an installation
    assert re.search(r"https?://\S+", load_config(name).data.hint)


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


@pytest.mark.slow
def test_a_wheel_holds_the_configs_within_the_package(tmp_path):
    pytest.importorskip("hatchling")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    [wheel] = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    configs = {f"captioner/configs/{file.name}" for file in (ROOT / "configs").glob("*.yaml")}
    assert {name for name in names if name.endswith(".yaml")} == configs
    assert "captioner/pretrained/model.safetensors" in names
    folders = {name.partition("/")[0] for name in names}
    assert {folder.partition("-")[0] for folder in folders} == {"captioner"}


def test_the_version_is_printed_without_importing_torch():
    program = (
        "import sys\nfrom captioner.__main__ import main\n"
        "try: main()\nfinally: print('torch' in sys.modules)"
    )
    command = [sys.executable, "-c", program, "--version"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.startswith("captioner 0.")
    assert done.stdout.endswith("False\n")
