"""Atomic folders, and checksums that reveal a changed byte."""

import os

import pytest

from captioner.errors import CaptionerError
from captioner.storage import atomic_folder, recover_from_crash, verify_checksums


def save(folder, content=b"good"):
    with atomic_folder(folder) as new:
        (new / "file").write_bytes(content)


def test_a_folder_appears_when_it_is_complete(tmp_path):
    with atomic_folder(tmp_path / "model") as new:
        (new / "file").write_bytes(b"x")
        assert not (tmp_path / "model").exists()
    verify_checksums(tmp_path / "model")


def test_an_error_keeps_the_old_folder(tmp_path):
    save(tmp_path / "model")
    with pytest.raises(RuntimeError), atomic_folder(tmp_path / "model") as new:  # noqa: PT012
        (new / "file").write_bytes(b"half")
        raise RuntimeError
    assert (tmp_path / "model" / "file").read_bytes() == b"good"
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_a_full_disk_is_named_with_the_free_space(tmp_path, monkeypatch):
    save(tmp_path / "model")
    with (
        pytest.raises(CaptionerError, match=r"model cannot be written: No space left.*MiB free"),
        atomic_folder(tmp_path / "model"),
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
        verify_checksums(tmp_path / "model")


def test_a_folder_without_checksums_is_refused(tmp_path):
    with pytest.raises(
        CaptionerError, match=r"not saved by captioner.*copy the whole folder again"
    ):
        verify_checksums(tmp_path)


@pytest.mark.parametrize(
    ("left", "expected"),
    [
        (["model", "model.tmp"], ["model"]),
        (["model.old", "model.tmp"], ["model"]),
        (["model", "model.old"], ["model"]),
    ],
)
def test_recovery_removes_unfinished_folders_and_restores_replaced_ones(tmp_path, left, expected):
    for name in left:
        (tmp_path / name).mkdir()
    recover_from_crash(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == expected
