"""A lock is held by one process at a time, names its holder, and ends with it."""

import contextlib
import os
import platform
import signal
import subprocess
import sys
import time

import pytest

import captioner.locking as locking
from captioner.locking import Lock, LockedError

HOLD = """
import os, sys, time
from pathlib import Path
from captioner.locking import Lock
with Lock(Path(sys.argv[1]), what="it"):
    if len(sys.argv) > 2 and os.fork() == 0:  # as a worker process that reads images
        print("held", flush=True)
        time.sleep(60)
    elif len(sys.argv) == 2:
        print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def hold():
    """Start a process that holds a lock until its stdin is closed."""
    started = []

    def start(path, *more):
        process = subprocess.Popen(
            [sys.executable, "-c", HOLD, str(path), *more],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        started.append(process)
        assert process.stdout.readline() == "held\n"
        return process

    yield start
    for process in started:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@pytest.fixture(params=[True, False], ids=["flock", "no flock"])
def has_flock(request, monkeypatch):
    if not request.param:
        monkeypatch.setattr(locking, "_flock", lambda descriptor: None)
    return request.param


def test_a_lock_that_is_held_names_its_holder_and_the_way_out(tmp_path, hold, has_flock):
    holder = hold(tmp_path / "lock")
    expected = (
        rf"^photos is in use by process {holder.pid} on {platform.node()}, since 20\d\d-.*: wait"
    )
    with pytest.raises(LockedError, match=expected), Lock(tmp_path / "lock", what="photos"):
        pass
    assert (tmp_path / "lock").exists()


def test_the_file_and_a_new_folder_are_gone_after_the_block(tmp_path, has_flock):
    with Lock(tmp_path / "new" / "lock", what="it"):
        assert (tmp_path / "new" / "lock").exists()
    assert not (tmp_path / "new").exists()


def test_what_was_written_into_the_folder_stays(tmp_path):
    with Lock(tmp_path / "new" / "lock", what="it"):
        (tmp_path / "new" / "file").touch()
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["file"]


def test_two_locks_of_one_process_exclude_each_other(tmp_path, has_flock):
    own, other = (Lock(tmp_path / "lock", what="it") for _ in range(2))
    with own, pytest.raises(LockedError), other:
        pass
    with Lock(tmp_path / "lock", what="it"):
        pass


@pytest.mark.parametrize("more", [(), ("fork",)], ids=["alone", "with a child that lives on"])
def test_the_lock_of_a_killed_process_is_taken_over(tmp_path, hold, has_flock, more):
    holder = hold(tmp_path / "lock", *more)
    os.kill(holder.pid, signal.SIGKILL)
    holder.wait()
    assert (tmp_path / "lock").exists()
    with Lock(tmp_path / "lock", what="it"):
        assert f'"pid": {os.getpid()}' in (tmp_path / "lock").read_text()
    assert not (tmp_path / "lock").exists()


def test_without_flock_the_lock_of_another_machine_is_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(locking, "_flock", lambda descriptor: None)
    (tmp_path / "lock").write_text('{"pid": 1, "host": "far.example", "since": "today"}')
    with pytest.raises(LockedError, match=r"process 1 on far\.example, since today.*remove"):
        Lock(tmp_path / "lock", what="it").__enter__()


def test_a_lock_is_waited_for_and_its_holder_told_once(tmp_path, hold):
    holder, told = hold(tmp_path / "lock"), []
    started = time.monotonic()

    def wait(description):
        told.append(description)
        holder.stdin.close()  # it ends now

    with Lock(tmp_path / "lock", what="it", wait=wait):
        assert time.monotonic() - started < 20
    assert len(told) == 1
    assert f"process {holder.pid} on" in told[0]


def test_many_processes_enter_one_after_the_other(tmp_path):
    """Each reads a number, waits, and writes the next one: none is lost."""
    (tmp_path / "number").write_text("0")
    add = (
        "import sys, time\nfrom pathlib import Path\nfrom captioner.locking import Lock\n"
        "folder = Path(sys.argv[1])\n"
        "for _ in range(5):\n"
        "    with Lock(folder / 'lock', what='it', wait=lambda holder: None):\n"
        "        number = int((folder / 'number').read_text())\n"
        "        time.sleep(0.01)\n"
        "        (folder / 'number').write_text(str(number + 1))\n"
    )
    processes = [subprocess.Popen([sys.executable, "-c", add, str(tmp_path)]) for _ in range(4)]
    assert [process.wait(60) for process in processes] == [0] * 4
    assert (tmp_path / "number").read_text() == "20"
