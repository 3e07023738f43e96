"""The install for captioning only: requirements-caption.txt, without torch."""

import json
import os
import resource
import shutil
import subprocess
import sys
import tomllib
from importlib.metadata import distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from captioner import Captioner
from captioner.config.schema import ModelConfig
from captioner.models.folder import read_config, write_config

ROOT = Path(__file__).parents[1]
FILE = ROOT / "requirements-caption.txt"
PHOTO = ROOT / "examples" / "boat.jpg"
PIP = (
    "pip install 'torch>=2.6' 'torchvision>=0.21' 'pycocotools>=2.0.8' 'nltk>=3.9' "
    "'sacrebleu>=2.4' 'safetensors>=0.4.5' 'matplotlib>=3.8'"
)


def requirements_to_caption():
    return [line for line in FILE.read_text().splitlines() if not line.startswith("#")]


def required_by(name):
    """The distributions that a distribution requires here, but for its extras."""
    for line in distribution(name).requires or []:
        requirement = Requirement(line)
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
            yield requirement.name


def with_all_required(names):
    found, waiting = set(), [*names]
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            waiting += required_by(name)
    return found


def link_packages(folder, names):
    """Make a folder of packages that holds these distributions alone, by links to this one's."""
    for name in names:
        installed = distribution(name)
        for top in {Path(file).parts[0] for file in installed.files} - {"..", "__pycache__"}:
            link = folder / top
            if not link.exists():
                link.symlink_to(installed.locate_file(top).resolve())
    return folder


def run(packages, *arguments, **options):
    """Run Python with these packages and captioner, and nothing else that is installed."""
    path = os.pathsep.join([str(packages), str(ROOT)])
    return subprocess.run(
        [sys.executable, "-S", *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "NO_COLOR": "1"},
        capture_output=True,
        text=True,
        check=False,
        **options,
    )


@pytest.fixture(scope="module")
def packages(tmp_path_factory):
    """The packages of the install for captioning, and what they require."""
    names = with_all_required(Requirement(line).name for line in requirements_to_caption())
    return link_packages(tmp_path_factory.mktemp("packages"), sorted(names))


@pytest.fixture(scope="module")
def three_packages(tmp_path_factory):
    """NumPy, Pillow and onnxruntime, without what they require."""
    return link_packages(tmp_path_factory.mktemp("three"), ["numpy", "pillow", "onnxruntime"])


@pytest.fixture(scope="module")
def expected():
    """The caption of the photograph in an environment with torch."""
    return Captioner.from_pretrained(backend="onnx").caption(PHOTO)


def test_the_requirements_are_those_of_the_package_without_what_captioning_does_not_need():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    left_out = [line for line in project["dependencies"] if line not in requirements_to_caption()]
    assert set(requirements_to_caption()) < set(project["dependencies"])
    assert "pip install " + " ".join(f"'{line}'" for line in left_out) == PIP


def test_the_environment_of_these_tests_has_no_torch(packages):
    for name in ("torch", "safetensors", "nltk", "pytest"):
        assert run(packages, "-c", f"import {name}").returncode == 1
    assert run(packages, "-c", "import pydantic, yaml, regex").returncode == 0


def test_caption_needs_no_torch(packages, expected, tmp_path):
    results, page = tmp_path / "captions.json", tmp_path / "page.html"
    done = run(
        packages,
        *("-m", "captioner", "caption", PHOTO, "--json", "--output", results),
    )
    assert done.returncode == 0, done.stderr
    printed = json.loads(done.stdout)
    assert printed["caption"] == expected.text
    assert printed["confidence"] == pytest.approx(expected.confidence, abs=1e-4)
    assert json.loads(results.read_text()) == [{"image_id": str(PHOTO), "caption": expected.text}]
    options = ("--report", page, "--num-captions", "3", "--prefix", "a", "--no-repeat-ngram", "2")
    done = run(packages, "-m", "captioner", "caption", PHOTO, *options)
    assert (done.returncode, done.stdout.count("\n")) == (0, 3), done.stderr
    assert page.stat().st_size > 10_000


@pytest.mark.parametrize(
    ("command", "printed"),
    [
        (["--help"], "translate  "),
        *(([name, "--help"], "Example: ") for name in ("caption", "train")),
        (["defaults"], "beam=4"),
        (["score", PHOTO, "--caption", "a boat"], "\ta boat"),
    ],
)
def test_help_defaults_and_score_need_no_torch(packages, command, printed):
    done = run(packages, "-m", "captioner", *command)
    assert done.returncode == 0, done.stderr
    assert printed in done.stdout


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--backend", "torch"], f"--backend 'torch' {{}}leave it out, or {PIP}"),
        (["--explain", "--json"], f"--explain {{}}leave it out, or {PIP}"),
        (["--sample"], f"--sample {{}}leave it out, or {PIP}"),
        (["--diverse", "2"], f"--diverse {{}}leave it out, or {PIP}"),
        (["--device", "cuda"], f"--device 'cuda' {{}}leave it out, or {PIP}"),
        (["--precision", "bf16"], f"--precision 'bf16' {{}}leave it out, or {PIP}"),
        (["--model", "bundled", "--model", "bundled"], f"an ensemble {{}}name one model, or {PIP}"),
    ],
)
def test_an_option_that_needs_torch_says_so_and_how_to_go_on(packages, options, message):
    done = run(packages, "-m", "captioner", "caption", PHOTO, *options)
    needs = "needs the package torch, which is not installed: "
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"captioner: {message.format(needs)}\n"


def test_a_model_without_graphs_says_how_to_get_them(packages, tiny_model):
    done = run(packages, "-m", "captioner", "caption", PHOTO, "--model", tiny_model)
    assert done.returncode == 1
    assert done.stderr == (
        f"captioner: {tiny_model}, which has no graphs, needs the package torch, which is not "
        f"installed: run, where torch is installed, captioner export --model {tiny_model} "
        f"--output FOLDER, or {PIP}\n"
    )


def test_a_setting_that_a_folder_stores_is_named_with_the_command_that_changes_it(
    packages, tmp_path
):
    folder = tmp_path / "model"
    shutil.copytree(ROOT / "captioner" / "pretrained", folder)
    values = read_config(folder)
    values["decoding"]["require"] = ["man"]
    write_config(folder, ModelConfig.parse(values, source="test"))
    done = run(packages, "-m", "captioner", "caption", PHOTO, "--model", folder)
    assert done.stderr == (
        "captioner: --require needs the package torch, which is not installed: change it with "
        f"captioner defaults --model FOLDER, or {PIP}\n"
    )


def test_a_command_that_needs_torch_says_so(packages, untrained_translator, tmp_path):
    text = tmp_path / "text"
    text.write_text("a dog\n")
    model = ("--model", untrained_translator())
    for command in (["train", "shapes"], ["translate", *model, text]):
        done = run(packages, "-m", "captioner", *command, cwd=tmp_path)
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr == (
            f"captioner: captioner {command[0]} needs the package torch, which is not installed: "
            f"{PIP}\n"
        )


@pytest.mark.parametrize("command", [["defaults", "beam=5"], ["calibrate", "--annotations", "x"]])
def test_a_command_that_changes_a_model_folder_says_so_before_it_computes(
    packages, tiny_model, command
):
    done = run(packages, "-m", "captioner", *command, "--model", tiny_model)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        "captioner: changing a model folder needs the package torch, which is not installed: "
        f"do it where torch is installed, or {PIP}\n"
    )


PYTHON = """
import sys, captioner

photo = sys.argv[1]
model = captioner.Captioner.from_pretrained()
print(model.caption(photo).text)

def use(name):
    return lambda: getattr(captioner, name)

for attempt in (
    lambda: model.caption(photo, explain=True),
    lambda: model.caption(photo, decoding={"method": "sample"}),
    lambda: captioner.Captioner.from_pretrained(backend="torch"),
    lambda: model.device,
    lambda: model.save_pretrained("copy"),
    use("train"),
    use("Translator"),
):
    try:
        attempt()
    except captioner.CaptionerError as error:
        assert isinstance(error, ImportError)
        print(str(error).partition(" needs the package torch, which is not installed: ")[0])
"""


def test_python_says_what_needs_torch(packages, expected):
    done = run(packages, "-c", PYTHON, PHOTO)
    assert done.stdout.splitlines() == [
        *(expected.text, "explain", "method", "backend 'torch'", "Captioner.device"),
        *("save_pretrained", "captioner.train", "captioner.Translator"),
    ], done.stderr


GPU = """
import sys
from captioner.cli.app import main
from captioner.inference import captioner

captioner.has_nvidia_gpu = lambda: True
main(["caption", sys.argv[1]])
"""


def test_a_gpu_needs_no_torch_where_none_is_installed(packages, expected):
    done = run(packages, "-c", GPU, PHOTO)
    assert expected.text in done.stdout, done.stderr


THREE = """
import sys, captioner
from captioner.runtime.captioner import OnnxCaptioner

print(OnnxCaptioner.from_pretrained().caption(sys.argv[1]).text)
try:
    captioner.Captioner
except captioner.CaptionerError as error:
    print(error)
"""


def test_the_runtime_needs_three_packages_only(three_packages, expected):
    done = run(three_packages, "-c", THREE, PHOTO)
    assert done.stdout.splitlines() == [
        expected.text,
        "captioner.Captioner needs the package pydantic, which is not installed: "
        "pip install 'pydantic>=2.7'",
    ], done.stderr
    done = run(three_packages, "-m", "captioner", "caption", PHOTO)
    assert (done.returncode, done.stderr) == (
        1,
        "captioner: captioner needs the package typer, which is not installed: "
        "pip install 'typer>=0.19'\n",
    )


@pytest.mark.slow
def test_a_fresh_environment_captions_and_is_small(tmp_path, expected):
    source, environment = tmp_path / "source", tmp_path / "environment"
    source.mkdir()
    for name in ("captioner", "configs"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE", FILE.name):
        shutil.copy(ROOT / name, source)
    subprocess.run([sys.executable, "-m", "venv", environment], check=True)
    pip = [environment / "bin" / "pip", "install", "--quiet"]
    for arguments in (["-r", FILE.name], ["--no-deps", "."]):
        done = subprocess.run(
            [*pip, *arguments], cwd=source, capture_output=True, text=True, check=False
        )
        if "connection broken" in done.stderr:
            pytest.skip("pip reaches no package index")
        assert done.returncode == 0, done.stderr
    size = sum(
        file.stat().st_size
        for file in environment.glob("lib/python*/site-packages/**/*")
        if file.is_file()
    )
    assert size < 300e6
    clean = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [environment / "bin" / "captioner", "caption", PHOTO],
        cwd=tmp_path, env=clean, capture_output=True, text=True, check=False,
    )  # fmt: skip
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert expected.text in done.stdout, done.stderr
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 1.2
