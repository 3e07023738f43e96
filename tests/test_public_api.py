"""What `import captioner` offers."""

import subprocess
import sys
from importlib.resources import files
from pathlib import Path

import pytest

import captioner

ROOT = Path(__file__).parents[1]

SCRIPT = """
import captioner
from captioner import Caption, Captioner, Translation, Translator

text: str = Captioner.from_pretrained().caption("a.jpg").text
captions: list[Caption] = Captioner.from_pretrained("runs/best").caption(["a.jpg", "b.jpg"])
best = captioner.train(captioner.load_config("x.yaml"))
translation: Translation = Translator.from_pretrained("runs/best").translate("A dog runs.")
cider: float = captioner.evaluate("captions.json", results="results.json").metrics["CIDEr"]
"""


def test_dir_shows_exactly_the_public_names_and_each_can_be_imported():
    names = [
        *("Caption", "Captioner", "CaptionerError", "Config", "ImageError"),
        *("Translation", "Translator", "UsageError", "__version__"),
        *("evaluate", "load_config", "train"),
    ]
    assert dir(captioner) == sorted(captioner.__all__) == names
    for name in names:
        assert getattr(captioner, name)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="has no attribute 'Captoner'"):
        _ = captioner.Captoner


def test_the_package_says_that_it_is_typed():
    assert (files("captioner") / "py.typed").is_file()


@pytest.mark.slow
def test_a_script_that_uses_the_public_names_passes_mypy_strict(tmp_path):
    (tmp_path / "script.py").write_text(SCRIPT)
    command = [sys.executable, "-m", "mypy", "--strict", "--config-file", "", "script.py"]
    done = subprocess.run(
        [*command, "--follow-untyped-imports"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={"PATH": "", "MYPYPATH": str(ROOT)},
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
