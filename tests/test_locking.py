"""A lock is held by one process at a time, names its holder, and ends with it."""

import contextlib
import errno
import json
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
    (tmp_path / "lock").write_text('{"pid": 4194305, "host": "far.example", "since": "today"}')
    with pytest.raises(LockedError, match=r"process 4194305 on far\.example, since today.*remove"):
        Lock(tmp_path / "lock", what="it").__enter__()


def write_holder(path, **changed):
    """Write the lock file of a process that cannot exist, or of another one."""
    holder = {"pid": 4_194_305, "started": "1", "host": platform.node(), "since": "today"} | changed
    path.write_text(json.dumps(holder))


def test_without_flock_one_of_two_processes_takes_an_abandoned_lock_over(tmp_path, monkeypatch):
    """The second one finds the file abandoned, and then waits until the first has taken it over."""
    monkeypatch.setattr(locking, "_flock", lambda descriptor: None)
    write_holder(tmp_path / "lock")
    first, second = (Lock(tmp_path / "lock", what="it") for _ in range(2))
    real = locking._is_abandoned

    def slow(path):
        is_abandoned = real(path)
        monkeypatch.setattr(locking, "_is_abandoned", real)
        first.__enter__()
        return is_abandoned

    monkeypatch.setattr(locking, "_is_abandoned", slow)
    with pytest.raises(LockedError, match=f"process {os.getpid()} on"):
        second.__enter__()
    first.__exit__()
    assert not list(tmp_path.iterdir())


def test_without_flock_nobody_else_takes_a_lock_over_meanwhile(tmp_path, monkeypatch):
    monkeypatch.setattr(locking, "_flock", lambda descriptor: None)
    write_holder(tmp_path / "lock")
    real, errors = locking._is_file, []

    def try_another(path, descriptor):
        monkeypatch.setattr(locking, "_is_file", real)
        with pytest.raises(LockedError) as error:
            Lock(tmp_path / "lock", what="it").__enter__()
        errors.append(error)
        return real(path, descriptor)

    monkeypatch.setattr(locking, "_is_file", try_another)
    with Lock(tmp_path / "lock", what="it"):
        assert errors


def test_without_flock_a_later_process_of_the_same_number_is_another_one(tmp_path, monkeypatch):
    """A container that is restarted has the host and the process number of the one before."""
    if not os.path.exists("/proc/self/stat"):
        pytest.skip("the system does not tell when a process started")
    monkeypatch.setattr(locking, "_flock", lambda descriptor: None)
    write_holder(tmp_path / "lock", pid=os.getpid())
    with Lock(tmp_path / "lock", what="it"):
        pass
    assert not (tmp_path / "lock").exists()


@pytest.mark.parametrize(("age", "is_free"), [(0, False), (3600, True)])
@pytest.mark.parametrize("content", ["", '{"pid"'])
def test_without_flock_a_lock_that_never_got_a_name_is_taken_over(
    tmp_path, monkeypatch, content, age, is_free
):
    monkeypatch.setattr(locking, "_flock", lambda descriptor: None)
    (tmp_path / "lock").write_text(content)
    os.utime(tmp_path / "lock", (time.time() - age,) * 2)
    with contextlib.nullcontext() if is_free else pytest.raises(LockedError):
        Lock(tmp_path / "lock", what="it").__enter__()


def test_without_space_for_the_name_of_the_holder_nothing_is_locked(tmp_path, monkeypatch):
    def write(descriptor, content):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", write)
        with pytest.raises(OSError, match="No space"):
            Lock(tmp_path / "lock", what="it").__enter__()
    assert not list(tmp_path.iterdir())


@pytest.fixture
def of_another_user(monkeypatch):
    """Let files of a mode be those of another user: the superuser may open every file."""
    real = os.open

    def refuse(path, flags, mode=0o777):
        exists = os.path.exists(path)
        forbidden = os.R_OK if flags & os.O_ACCMODE == os.O_RDONLY else os.W_OK
        if exists and not flags & os.O_EXCL and not os.stat(path).st_mode & forbidden:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return real(path, flags, mode)

    monkeypatch.setattr(os, "open", refuse)


@pytest.mark.parametrize("mode", [0o644, 0o600])
def test_the_lock_of_another_user_is_in_use(tmp_path, hold, of_another_user, mode):
    hold(tmp_path / "lock")
    (tmp_path / "lock").chmod(mode)
    with pytest.raises(LockedError, match="it is in use by "):
        Lock(tmp_path / "lock", what="it").__enter__()


def test_the_lock_of_a_killed_process_of_another_user_is_taken_over(
    tmp_path, hold, of_another_user
):
    holder = hold(tmp_path / "lock")
    holder.kill()
    holder.wait()
    (tmp_path / "lock").chmod(0o644)
    with Lock(tmp_path / "lock", what="it"):
        assert f'"pid": {os.getpid()}' in (tmp_path / "lock").read_text()


@pytest.mark.timeout(20)
def test_a_link_to_a_lock_that_does_not_exist_yet_is_followed(tmp_path, has_flock):
    (tmp_path / "link").symlink_to(tmp_path / "folder" / "lock")
    with Lock(tmp_path / "link", what="it"):
        assert (tmp_path / "folder" / "lock").exists()


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
