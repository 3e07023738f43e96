"""Files have the permissions that the umask says, and what cannot be read is one line."""

import os
import shutil
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from trainings import small

from captioner import Captioner
from captioner.config.schema import DecodingConfig
from captioner.errors import CaptionerError
from captioner.models.folder import (
    first_decoding,
    read_model,
    resolve,
    weights_digest,
    write_config,
    write_model,
)
from captioner.storage import atomic_folder, verify_checksums
from captioner.training.train import train

pytestmark = pytest.mark.row(39)

PACKAGE = Path(__file__).parents[2]


@pytest.fixture
def umask():
    """Set the umask; it is set back afterwards."""
    before = os.umask(0o022)
    yield os.umask
    os.umask(before)


def modes(folder):
    return {stat.S_IMODE(path.stat().st_mode) for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(("mask", "expected"), [(0o022, 0o644), (0o027, 0o640), (0o002, 0o664)])
def test_every_file_of_a_model_folder_has_the_mode_of_the_umask(
    tiny_model, tmp_path, umask, mask, expected
):
    umask(mask)
    captioner = Captioner.from_pretrained(tiny_model, device="cpu")
    captioner.save_pretrained(tmp_path / "model")
    assert modes(tmp_path / "model") == {expected}
    decoding = DecodingConfig(beam=2)
    write_config(tmp_path / "model", captioner.config.model_copy(update={"decoding": decoding}))
    assert modes(tmp_path / "model") == {expected}


def test_every_file_of_a_training_has_the_mode_of_the_umask(tiny, tmp_path, umask):
    umask(0o022)
    train(small(tiny, training={"max_steps": 1}), device="cpu")
    assert modes(tmp_path) == {0o644}


def test_results_reports_and_scores_have_the_mode_of_the_umask(
    run, shapes, tiny_model, tmp_path, umask
):
    umask(0o027)
    code, _, _ = run(
        *("evaluate", "--annotations", shapes / "captions_dev.json", "--images", shapes / "dev"),
        *("--model", tiny_model, "--device", "cpu"),
        *("--results", tmp_path / "r.json", "--report", tmp_path / "r.html"),
    )
    assert code == 0
    assert {path.name for path in tmp_path.iterdir()} == {"r.json", "r.html", "scores.json"}
    assert modes(tmp_path) == {0o640}


AS_ANOTHER_USER = """
import os, sys
from captioner.cli.app import main

def run():
    try:
        main(sys.argv[1:])
        return 0
    except SystemExit as end:
        return end.code or 0

if os.geteuid() == 0:
    run()  # root reads everything, and imports what another user may not reach
    os.setgroups([])
    os.setegid(65534)
    os.seteuid(65534)
    print("---", flush=True)
    print("---", file=sys.stderr, flush=True)
sys.exit(run())
"""


def as_another_user(*command):
    """Run a command as a user who owns nothing; return the exit code, stdout and stderr."""
    done = subprocess.run(
        [sys.executable, "-c", AS_ANOTHER_USER, *map(str, command)],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
        env=os.environ | {"PYTHONPATH": str(PACKAGE)},
    )
    return done.returncode, *(text.split("---\n")[-1] for text in (done.stdout, done.stderr))


@pytest.fixture
def public(tiny_model, photo, umask):
    """A model and an image in a folder that every user can enter."""
    umask(0o022)
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o777)
    Captioner.from_pretrained(tiny_model, device="cpu").save_pretrained(folder / "model")
    shutil.copyfile(photo, folder / "photo.png")
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def caption(public):
    """Caption the image as another user."""
    return lambda *options: as_another_user(
        *("caption", public / "photo.png", "--model", public / "model", "--device", "cpu"),
        *options,
    )


def test_another_user_can_use_a_model(public, caption):
    code, out, err = caption()
    assert (code, err) == (0, "")
    assert out.startswith(str(public / "photo.png"))


@pytest.mark.parametrize(
    "name", [".", "config.json", "checksums.json", "vocab.json", "model.safetensors"]
)
@pytest.mark.slow
def test_a_model_that_a_user_cannot_read_is_one_line_with_the_file(public, caption, name):
    file = public / "model" / name
    mode = file.stat().st_mode
    file.chmod(0)
    code, out, err = caption()
    file.chmod(mode)
    assert (code, out) == (1, "")
    [line] = err.splitlines()
    assert line == (
        f"captioner: {file} cannot be read: Permission denied: "
        "give this user the right to read it, or copy the folder"
    )


@pytest.mark.parametrize("content", ["[]", "7", '"x"', "null"])
def test_checksums_of_another_form_are_refused(tiny_model, tmp_path, content):
    shutil.copytree(tiny_model, tmp_path / "model")
    (tmp_path / "model" / "checksums.json").write_text(content)
    for read in (read_model, weights_digest):
        with pytest.raises(CaptionerError, match=r"copy the whole folder again"):
            read(tmp_path / "model")


def test_a_folder_in_place_of_a_file_is_named(tiny_model, tmp_path):
    shutil.copytree(tiny_model, tmp_path / "model")
    (tmp_path / "model" / "model.safetensors").unlink()
    (tmp_path / "model" / "model.safetensors").mkdir()
    with pytest.raises(CaptionerError, match=r"model\.safetensors cannot be read: Is a directory"):
        read_model(resolve(tmp_path / "model"))


def test_an_unreadable_model_to_start_from_is_one_line(public):
    (public / "config.yaml").write_text(f"init: {public / 'model'}\ndata: {{train: x, dev: x}}\n")
    (public / "model" / "config.json").chmod(0)
    code, _, err = as_another_user("train", public / "config.yaml")
    assert code == 1
    assert len(err.splitlines()) == 1
    assert "config.json cannot be read: Permission denied" in err


@pytest.fixture
def closed_to_others(public):
    """A folder and two files that another user may not read."""
    (public / "locked").mkdir(mode=0o700)
    for name in ("page.html", "mine.json"):
        (public / name).write_text("mine")  # root refuses to replace it, too
        (public / name).chmod(0o600)
    return public


@pytest.mark.parametrize(
    ("option", "name", "reason"),
    [
        ("--output", "locked/x.json", "locked/x.json cannot be written: Permission denied"),
        ("--report", "locked/x.html", "locked/x.html cannot be written: Permission denied"),
        ("--output", "mine.json", "mine.json: cannot read the results: Permission denied"),
        ("--report", "page.html", "page.html cannot be read: Permission denied"),
    ],
)
@pytest.mark.slow
def test_an_output_that_a_user_cannot_reach_is_one_line(
    closed_to_others, caption, option, name, reason
):
    code, out, err = caption(option, closed_to_others / name)
    assert (code, out) == (2, "")
    assert err.splitlines()[0].startswith(f"captioner: {closed_to_others}/{reason}")
    assert "Traceback" not in err


@pytest.mark.parametrize(
    "options", [[], ["--model", "bundled", "--images", "."], ["--images", "."]]
)
def test_results_that_a_user_cannot_reach_are_one_line(closed_to_others, options):
    results = closed_to_others / "locked" / "r.json"
    code, _, err = as_another_user("evaluate", "--annotations", "x", "--results", results, *options)
    assert code == 2
    assert err.splitlines()[0].startswith(f"captioner: {results.parent}")
    assert "Permission denied" in err.splitlines()[0]


def test_translations_that_a_user_cannot_write_are_one_line(closed_to_others):
    output = closed_to_others / "locked" / "o.txt"
    code, _, err = as_another_user("translate", "--model", "x", "--output", output, "text")
    assert code == 2
    assert err.startswith(f"captioner: {output} cannot be written: Permission denied")


def test_files_that_somebody_added_stay_theirs_when_the_config_changes(tiny_model, tmp_path):
    folder = tmp_path / "model"
    captioner = Captioner.from_pretrained(tiny_model, device="cpu")
    captioner.save_pretrained(folder)
    (folder / "notes.txt").write_text("mine")
    for beam in (2, 4):
        decoding = DecodingConfig(beam=beam)
        write_config(folder, captioner.config.model_copy(update={"decoding": decoding}))
        (folder / "notes.txt").write_text(f"edited {beam}")
        assert Captioner.from_pretrained(folder, device="cpu").config.decoding.beam == beam
    assert first_decoding(folder) == captioner.config.decoding
    captioner.save_pretrained(folder)
    assert (folder / "notes.txt").read_text() == "edited 4"


def test_a_checkpoint_keeps_its_training_state_when_the_config_changes(tiny_model, tmp_path):
    config, vocabulary, _, state = read_model(tiny_model)
    with atomic_folder(tmp_path / "checkpoint-1") as folder:
        write_model(folder, config=config, vocabulary=vocabulary, state=state)
        (folder / "training.pt").write_bytes(b"state")
    write_config(tmp_path / "checkpoint-1", config)
    assert (tmp_path / "checkpoint-1" / "training.pt").read_bytes() == b"state"
    verify_checksums(tmp_path / "checkpoint-1")
