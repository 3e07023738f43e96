"""Machines without a home folder, with empty or broken data of packages, or with old packages."""

import json
import os
import subprocess
import sys
import zipfile
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest
import torch

from captioner import requirements
from captioner.__main__ import main
from captioner.cli import app
from captioner.errors import CaptionerError
from captioner.models.weights import download_weights
from captioner.requirements import missing_package, outdated_package

pytestmark = pytest.mark.row(43)

ROOT = Path(__file__).parents[2]
WORDNET = "lexnames index.noun data.noun index.verb data.verb index.adj data.adj index.adv data.adv"

# A user without HOME and without an entry in the list of users, as in many containers.
NO_HOME = """
import os, pwd
for name in ("HOME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "TORCH_HOME", "MPLCONFIGDIR"):
    os.environ.pop(name, None)
def unknown(*_): raise KeyError("uid not found")
pwd.getpwuid = pwd.getpwnam = unknown
"""


def run_python(program, *arguments, cwd, **environment):
    """Run a program that can import the package; return its exit code, stdout and stderr."""
    path = os.pathsep.join([*environment.pop("first", []), str(ROOT)])
    done = subprocess.run(
        [sys.executable, "-c", program, *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", **environment},
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


MAIN = "import sys\nfrom captioner.__main__ import main\nmain()"


def test_a_user_without_a_home_folder_trains_and_writes_nothing_elsewhere(tiny, tmp_path):
    config = tiny(training={"max_steps": 1})
    (tmp_path / "tiny.yaml").write_text(json.dumps(config.to_json()))
    here = tmp_path / "here"
    here.mkdir()
    code, out, err = run_python(
        NO_HOME + MAIN, "train", tmp_path / "tiny.yaml", "--device", "cpu", cwd=here
    )
    assert (code, out) == (0, f"{config.output / 'best'}\n"), err
    assert (config.output / "curves.png").exists()
    assert "Traceback" not in err
    assert not list(here.iterdir())  # not even a folder called ~


def test_without_a_home_folder_a_download_names_the_way_out(monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: "~/.cache/torch/hub")
    with pytest.raises(CaptionerError, match="no home folder: set the environment variable TORCH"):
        download_weights("resnet18")


def empty_folder(corpora):
    (corpora / "wordnet").mkdir()


def file_in_its_place(corpora):
    (corpora / "wordnet").write_text("")


def empty_files(corpora):
    (corpora / "wordnet").mkdir()
    for name in WORDNET.split():
        (corpora / "wordnet" / name).touch()


def noise(corpora):
    (corpora / "wordnet").mkdir()
    for name in WORDNET.split():
        (corpora / "wordnet" / name).write_bytes(bytes(range(128, 256)) * 9)


def empty_zip(corpora):
    (corpora / "wordnet.zip").touch()


def damaged_zip(corpora):
    with zipfile.ZipFile(corpora / "wordnet.zip", "w") as archive:
        archive.writestr("wordnet/lexnames", "00\tadj.all\t3\n" * 99)
    damaged = (corpora / "wordnet.zip").read_bytes()[:-30]
    (corpora / "wordnet.zip").write_bytes(damaged)


@pytest.mark.parametrize(
    "break_it", [empty_folder, file_in_its_place, empty_files, noise, empty_zip, damaged_zip]
)
def test_broken_data_of_wordnet_is_told_once_and_meteor_goes_without_it(tmp_path, break_it):
    (tmp_path / "corpora").mkdir()
    break_it(tmp_path / "corpora")
    program = (
        "from captioner.metrics.english import load_wordnet\nprint(load_wordnet(), load_wordnet())"
    )
    code, out, err = run_python(program, cwd=tmp_path, NLTK_DATA=str(tmp_path))
    assert (code, out) == (0, "None None\n"), err
    assert err.count("nltk's WordNet cannot be used") == 1
    assert "python -m nltk.downloader wordnet" in err
    assert err.count("\n") == 1


def test_broken_packages_of_pictures_cost_their_pictures_but_not_the_run(tiny, tmp_path):
    files = {"matplotlib": "curves.png", "tensorboard": "events"}
    for package in files:
        (tmp_path / "packages" / package).mkdir(parents=True)
        broken = tmp_path / "packages" / package / "__init__.py"
        broken.write_text("raise TypeError('built for another numpy')")
    config = tiny(training={"max_steps": 2, "validate_every": 1})
    (tmp_path / "tiny.yaml").write_text(json.dumps(config.to_json()))
    code, _, err = run_python(
        MAIN,
        *("train", tmp_path / "tiny.yaml", "--device", "cpu"),
        cwd=tmp_path,
        first=[str(tmp_path / "packages")],
    )
    assert code == 0, err
    for package, file in files.items():
        line = f"{file} is not written, because {package} cannot be imported (built for another"
        assert err.count(line) == 1
        assert f"pip install --upgrade {package}" in err
        assert not (config.output / file).exists()
    assert (config.output / "samples.png").exists()


@pytest.mark.parametrize("program", ["", "raise RuntimeError('Type not yet supported')"])
def test_an_older_typer_is_one_line_with_the_way_out(tmp_path, program):
    """An older typer lacks what is imported, or fails at what it does not know."""
    (tmp_path / "typer").mkdir()
    (tmp_path / "typer" / "__init__.py").write_text(program)
    (tmp_path / "typer-0.15.4.dist-info").mkdir()
    (tmp_path / "typer-0.15.4.dist-info" / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: typer\nVersion: 0.15.4\n"
    )
    code, out, err = run_python(MAIN, "caption", "x.jpg", cwd=tmp_path, first=[str(tmp_path)])
    assert (code, out) == (1, "")
    assert err.startswith("captioner: typer 0.15.4 is too old, captioner needs 0.")
    assert "pip install --upgrade 'typer>=0." in err
    assert err.count("\n") == 1


def of_import(module):
    return ModuleNotFoundError(f"No module named '{module}'", name=module)


def test_a_package_that_is_missing_is_named(monkeypatch):
    monkeypatch.setattr(requirements, "_requirements", lambda: ["typer>=0.1", "absent>=2.0"])
    assert str(missing_package(of_import("absent.part"), "captioner train")) == (
        "captioner train needs the package absent, which is not installed: "
        "pip install 'absent>=2.0'"
    )
    assert missing_package(of_import("typer"), "captioner train") is None  # it is installed
    assert missing_package(of_import("not_ours"), "captioner train") is None


def raised(error):
    raise error


def in_typer(error):
    """Raise an error in a function of typer, as an old one does at types that it does not know."""
    names = {"__name__": "typer.main", "error": error}
    exec("def get_click_type(): raise error", names)
    names["get_click_type"]()


@pytest.mark.parametrize(
    ("fails", "error", "message"),
    [
        (raised, of_import("absent"), "captioner needs the package absent, which is not installed"),
        (raised, ImportError("cannot import name"), "typer 0.30 is too old, captioner needs 99"),
        (
            in_typer,
            RuntimeError("Type not yet supported: typing.Literal"),
            "typer 0.30 is too old, captioner needs 99",
        ),
    ],
)
def test_what_a_command_fails_to_load_is_told_by_the_package(
    monkeypatch, capsys, fails, error, message
):
    installed = {"typer": "0.30"}
    monkeypatch.setattr(requirements, "_requirements", lambda: ["absent>=2.0", "typer>=99"])
    monkeypatch.setattr(requirements, "version", lambda name: find(installed, name))
    monkeypatch.setattr(app, "main", lambda: fails(error))
    with pytest.raises(SystemExit, match="1"):
        main()
    assert capsys.readouterr().err.startswith(f"captioner: {message}")


def find(installed, name):
    if name not in installed:
        raise PackageNotFoundError(name)
    return installed[name]


@pytest.mark.parametrize(
    "error", [ZeroDivisionError, AttributeError, TypeError, RuntimeError, OSError]
)
def test_an_old_package_hides_no_other_error(monkeypatch, capsys, error):
    monkeypatch.setattr(requirements, "_requirements", lambda: ["pytest>=99999"])
    monkeypatch.setattr(app, "main", lambda: raised(error("a fault of the program")))
    with pytest.raises(error, match="a fault of the program"):
        main()
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("installed", "least", "suffices"),
    [
        ("2.6", "2.6.0", True),
        ("2.6.0", "2.6", True),
        ("2.6.0+cu124", "2.6.0.0", True),
        ("2.10", "2.9.1", True),
        ("2.6", "2.6.1", False),
        ("2.6", "2.60", False),
        ("1.99.0", "2.0", False),
    ],
)
def test_versions_are_compared_by_their_numbers(monkeypatch, installed, least, suffices):
    monkeypatch.setattr(requirements, "_requirements", lambda: [f"torch>={least}"])
    monkeypatch.setattr(requirements, "version", lambda name: installed)
    assert (outdated_package() is None) is suffices


def test_all_packages_of_this_machine_suffice():
    assert outdated_package() is None
