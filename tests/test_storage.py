"""Atomic folders, and checksums that reveal a changed byte."""

import os
from pathlib import Path
from threading import Thread

import pytest

from captioner.errors import CaptionerError, UsageError
from captioner.storage import (
    atomic_binary_file,
    atomic_file,
    atomic_folder,
    check_new,
    check_writable,
    publish,
    recover_from_crash,
    verify_checksums,
    written_by_library,
)


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
        (["model", "model.captioner-tmp"], ["model"]),
        (["model.captioner-old", "model.captioner-tmp"], ["model"]),
        (["model", "model.captioner-old"], ["model"]),
    ],
)
def test_recovery_removes_unfinished_folders_and_restores_replaced_ones(tmp_path, left, expected):
    for name in left:
        (tmp_path / name).mkdir()
    recover_from_crash(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == expected


def test_a_folder_that_was_not_written_here_is_never_replaced(tmp_path):
    home = tmp_path / "home"
    home.mkdir()
    (home / "thesis.txt").write_text("years of work")
    with pytest.raises(UsageError, match="home holds other files, which would be lost"):
        save(home)
    assert (home / "thesis.txt").read_text() == "years of work"
    assert os.listdir(tmp_path) == ["home"]


def test_an_empty_folder_is_filled_and_a_file_is_refused(tmp_path):
    (tmp_path / "model").mkdir()
    save(tmp_path / "model")
    verify_checksums(tmp_path / "model")
    (tmp_path / "file").write_text("x")
    with pytest.raises(UsageError, match="file is a file: name a new folder"):
        save(tmp_path / "file")
    assert (tmp_path / "file").read_text() == "x"


def test_files_that_somebody_added_to_a_folder_are_kept(tmp_path):
    save(tmp_path / "model")
    (tmp_path / "model" / "README.md").write_text("card")
    (tmp_path / "model" / "notes").mkdir()
    (tmp_path / "model" / "notes" / "1").write_text("note")
    with atomic_folder(tmp_path / "model") as new:
        (new / "other").write_bytes(b"new")
    assert sorted(os.listdir(tmp_path / "model")) == [
        "README.md",
        "checksums.json",
        "notes",
        "other",
    ]
    assert (tmp_path / "model" / "notes" / "1").read_text() == "note"
    verify_checksums(tmp_path / "model")


def test_the_target_of_a_link_is_replaced_and_not_the_link(tmp_path):
    save(tmp_path / "real")
    (tmp_path / "link").symlink_to("real")
    save(tmp_path / "link", b"new")
    (tmp_path / "file").write_text("old")
    (tmp_path / "file link").symlink_to("file")
    with atomic_file(tmp_path / "file link") as file:
        file.write("new")
    assert (tmp_path / "real" / "file").read_bytes() == b"new"
    assert (tmp_path / "file").read_text() == "new"
    assert all((tmp_path / name).is_symlink() for name in ("link", "file link"))
    assert len(os.listdir(tmp_path)) == 4


def test_a_pipe_is_written_to_and_not_replaced(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    read = []
    reader = Thread(target=lambda: read.append((tmp_path / "pipe").read_text()), daemon=True)
    reader.start()
    with atomic_file(tmp_path / "pipe") as file:
        file.write("through")
    reader.join(timeout=10)
    assert read == ["through"]
    assert (tmp_path / "pipe").is_fifo()


def test_a_binary_file_is_complete_or_absent(tmp_path):
    with atomic_binary_file(tmp_path / "image") as file:
        file.write(b"\xff")
    with pytest.raises(RuntimeError), atomic_binary_file(tmp_path / "image") as file:  # noqa: PT012
        file.write(b"half")
        raise RuntimeError
    assert (tmp_path / "image").read_bytes() == b"\xff"
    assert os.listdir(tmp_path) == ["image"]


@pytest.mark.parametrize("is_folder", [True, False])
def test_publishing_flushes_everything_before_the_name_is_given(tmp_path, monkeypatch, is_folder):
    new, path = tmp_path / "x.tmp", tmp_path / "x"
    if is_folder:
        (new / "inner").mkdir(parents=True)
        (new / "inner" / "file").write_bytes(b"x")
    else:
        new.write_bytes(b"x")
    flushed = []
    real = os.fsync

    def fsync(descriptor):
        flushed.append((Path(os.readlink(f"/proc/self/fd/{descriptor}")).name, path.exists()))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    publish(new, path)
    *content, parent = flushed
    assert {name for name, _ in content} == ({"x.tmp", "inner", "file"} if is_folder else {"x.tmp"})
    assert not any(named for _, named in content)
    assert parent == (tmp_path.name, True)  # the new name itself is flushed too


def test_a_folder_that_cannot_get_its_name_leaves_both(tmp_path, monkeypatch):
    for name in ("x", "x.tmp"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text(name)
    real = Path.rename

    def refuse(self, target):
        if self.suffix == ".tmp":
            raise OSError(28, os.strerror(28))
        return real(self, target)

    monkeypatch.setattr(Path, "rename", refuse)
    with pytest.raises(OSError, match="No space"):
        publish(tmp_path / "x.tmp", tmp_path / "x")
    assert {name: (tmp_path / name / "file").read_text() for name in os.listdir(tmp_path)} == {
        "x": "x",
        "x.tmp": "x.tmp",
    }


def test_a_file_that_a_library_writes_gets_the_mode_of_the_umask(tmp_path):
    before = os.umask(0o027)
    try:
        with written_by_library(tmp_path / "file") as file:
            file.unlink()  # some libraries write another file and rename it
            file.write_bytes(b"x")
            file.chmod(0o600)
    finally:
        os.umask(before)
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o640


def test_only_a_new_or_an_empty_file_is_new(tmp_path):
    file = tmp_path / "file"
    check_new(file)
    file.touch()
    check_new(file)
    file.write_text("x")
    with pytest.raises(UsageError, match="file exists already, and it could be your data"):
        check_new(file)


def test_recovery_touches_no_files(tmp_path):
    (tmp_path / "notes.old").write_text("old")
    (tmp_path / "notes.tmp").write_text("tmp")
    recover_from_crash(tmp_path)
    assert sorted(os.listdir(tmp_path)) == ["notes.old", "notes.tmp"]


def test_recovery_removes_the_file_that_a_killed_process_was_writing(tmp_path):
    with atomic_file(tmp_path / "curves.json") as file:
        file.write("{}")
        [unfinished] = tmp_path.iterdir()
    unfinished.write_text("{")  # as if the process had been killed within the block
    recover_from_crash(tmp_path)
    assert os.listdir(tmp_path) == ["curves.json"]


def test_a_pipe_without_a_name_is_written_to():
    read, write = os.pipe()
    path = Path(f"/dev/fd/{write}")  # a link to "pipe:[1234]", as >(cat) and /dev/stdout
    check_writable(path)
    with atomic_file(path) as file:
        file.write("through")
    os.close(write)
    with open(read) as pipe:
        assert pipe.read() == "through"


def test_a_name_that_is_too_long_is_refused_before_any_work(tmp_path):
    for length in (300, 250):  # the second is too long for the unfinished file only
        with pytest.raises(UsageError, match="cannot be written: File name too long: choose"):
            check_writable(tmp_path / ("a" * length + ".html"))
    check_writable(tmp_path / ("a" * 200 + ".html"))


@pytest.mark.parametrize("name", [".", "", "../here", "../here/."])
def test_the_current_folder_is_saved_to_by_any_name(tmp_path, monkeypatch, name):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    save(Path(name))
    verify_checksums(tmp_path / "here")


def test_the_root_is_refused():
    with pytest.raises(UsageError, match="is the root of the disk"):
        save(Path("/"))
