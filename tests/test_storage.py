"""Folders that are whole or not there, and that notice a changed byte."""

import os

import pytest

from captioner.errors import CaptionerError
from captioner.storage import new_folder, sweep, verify


def save(folder, content=b"good"):
    with new_folder(folder) as place:
        (place / "file").write_bytes(content)


def test_a_folder_appears_when_it_is_whole(tmp_path):
    with new_folder(tmp_path / "model") as place:
        (place / "file").write_bytes(b"x")
        assert not (tmp_path / "model").exists()
    verify(tmp_path / "model")


def test_an_error_on_the_way_keeps_what_was_there(tmp_path):
    save(tmp_path / "model")
    with pytest.raises(RuntimeError), new_folder(tmp_path / "model") as place:  # noqa: PT012
        (place / "file").write_bytes(b"half")
        raise RuntimeError
    assert (tmp_path / "model" / "file").read_bytes() == b"good"
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_a_full_disk_is_named_with_the_space_that_is_left(tmp_path, monkeypatch):
    save(tmp_path / "model")
    with (
        pytest.raises(CaptionerError, match=r"model cannot be written: No space left.*MiB free"),
        new_folder(tmp_path / "model"),
    ):
        raise OSError(28, os.strerror(28))
    assert (tmp_path / "model" / "file").read_bytes() == b"good"


@pytest.mark.parametrize("damage", ["flip", "cut", "delete"])
def test_a_changed_file_is_named(tmp_path, damage):
    save(tmp_path / "model")
    file = tmp_path / "model" / "file"
    {
        "flip": lambda: file.write_bytes(b"goof"),
        "cut": lambda: file.write_bytes(b"goo"),
        "delete": lambda: file.unlink(),
    }[damage]()
    with pytest.raises(CaptionerError, match=r"model/file is (corrupt|missing)"):
        verify(tmp_path / "model")


def test_a_folder_of_someone_elses_is_explained(tmp_path):
    with pytest.raises(CaptionerError, match="it was not saved by captioner"):
        verify(tmp_path)


@pytest.mark.parametrize(
    ("left", "expected"),
    [
        (["model", "model.tmp"], ["model"]),
        (["model.old", "model.tmp"], ["model"]),
        (["model", "model.old"], ["model"]),
    ],
)
def test_sweeping_mends_what_a_crash_left(tmp_path, left, expected):
    for name in left:
        (tmp_path / name).mkdir()
    sweep(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == expected
