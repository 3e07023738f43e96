"""The defaults of decoding that a model folder keeps."""

import json

import pytest

from captioner import Captioner
from captioner.config.schema import DecodingConfig
from captioner.models.folder import read_config


@pytest.fixture
def folder(tiny_model, tmp_path):
    folder = tmp_path / "model"
    Captioner.from_pretrained(tiny_model, device="cpu").save_pretrained(folder)
    return folder


def test_changed_settings_are_stored_and_used(run, folder, photo):
    code, out, _ = run("defaults", "--model", folder, "beam=1", "prefix=the blue", "require=[ring]")
    assert code == 0
    assert {"beam=1", 'prefix="the blue"', 'require=["ring"]'} <= set(out.splitlines())
    caption = Captioner.from_pretrained(folder, device="cpu").caption(photo)
    assert caption.text.startswith("the blue")
    assert "ring" in caption.text.split()


def test_without_settings_they_are_shown_and_nothing_is_changed(run, folder):
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    _, out, _ = run("defaults", "--model", folder)
    shown = dict(line.split("=", 1) for line in out.splitlines())
    assert {name: json.loads(value) for name, value in shown.items()} == read_config(folder)[
        "decoding"
    ]
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before


def test_a_mistake_changes_nothing(run, folder):
    before = (folder / "config.json").read_bytes()
    code, _, err = run("defaults", "--model", folder, "beam=2", "beem=3")
    assert code == 2
    assert "did you mean 'beam'" in err
    assert (folder / "config.json").read_bytes() == before


def test_a_corrupt_folder_gets_no_new_checksums(run, folder):
    (folder / "vocab.json").write_text("{}")
    code, _, err = run("defaults", "--model", folder, "beam=2")
    assert code == 1
    assert "vocab.json is corrupt" in err


def decoding_of(folder):
    return read_config(folder)["decoding"]


def test_reset_puts_back_what_the_folder_had_before_its_first_change(run, folder):
    first = decoding_of(folder)
    for change in ("beam=2", "beam=5", "min_length=2"):
        assert run("defaults", "--model", folder, change)[0] == 0
    code, out, _ = run("defaults", "--model", folder, "--reset")
    assert code == 0
    assert f"beam={first['beam']}" in out.splitlines()
    assert decoding_of(folder) == first
    assert run("defaults", "--model", folder, "--reset", "beam=7")[0] == 0
    assert decoding_of(folder) == {**first, "beam": 7}


def test_reset_of_a_folder_that_keeps_no_earlier_settings_gives_those_of_the_program(
    run, tiny_model, tmp_path
):
    captioner = Captioner.from_pretrained(tiny_model, device="cpu")
    broken = DecodingConfig(prefix="zzz")  # as an older version could store
    captioner.config = captioner.config.model_copy(update={"decoding": broken})
    captioner.save_pretrained(tmp_path / "model")
    assert run("defaults", "--model", tmp_path / "model", "--reset")[0] == 0
    assert decoding_of(tmp_path / "model") == DecodingConfig().to_json()


def test_a_link_to_a_folder_stays_a_link(run, folder, tmp_path, monkeypatch):
    link = tmp_path / "link"
    link.symlink_to(folder)
    assert run("defaults", "--model", link, "beam=7")[0] == 0
    assert link.is_symlink()
    assert read_config(folder)["decoding"]["beam"] == 7
    monkeypatch.chdir(folder)
    assert run("defaults", "--model", ".", "beam=8")[0] == 0
    assert read_config(folder)["decoding"]["beam"] == 8


def test_folders_within_the_folder_are_kept(run, folder):
    (folder / "notes").mkdir()
    (folder / "notes" / "today.txt").write_text("a note")
    assert run("defaults", "--model", folder, "beam=2")[0] == 0
    assert (folder / "notes" / "today.txt").read_text() == "a note"
