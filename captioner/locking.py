"""Locks between processes: one run for each output folder, one writer for each cache.

A lock is a file that its holder has locked with `flock`. The system releases it when the holder
ends, however it ends. Where the system or the file system has no `flock`, the file alone is the
lock, and that of a process of this machine that has ended is taken over.
"""

from __future__ import annotations

import errno
import importlib
import json
import os
import platform
import time
import weakref
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

from captioner.errors import UsageError

_HELD = (errno.EACCES, errno.EAGAIN)  # of a lock that another process holds
_PERIOD = 0.25  # seconds between two attempts
_NAMED_WITHIN = 60  # seconds in which a holder writes its name


class LockedError(UsageError):
    """Another process holds the lock. Nothing was started."""


class Lock:
    """Context manager that holds a lock file, which exists only while the lock is held.

    Args:
        path: of the file; its folder is created.
        what: what the lock protects, for the error.
        wait: if another process holds the lock, it is called once with a description of that
            process, and the lock is waited for. None: a lock that is held raises an error.

    Entering raises:
        LockedError: another process holds the lock, and `wait` is None.
        OSError: the file cannot be made.
    """

    def __init__(self, path: Path, *, what: str, wait: Callable[[str], None] | None = None) -> None:
        self.path = Path(os.path.realpath(path))  # a link may lead to a file that is yet to be made
        self.what, self.wait = what, wait
        self._descriptor: int | None = None
        self._made_folders: list[Path] = []  # the innermost first
        if hasattr(os, "register_at_fork"):
            reference = weakref.ref(self)

            def close_in_child() -> None:
                # A worker process that outlives the holder would keep its lock.
                if (lock := reference()) is not None:
                    lock._close()

            os.register_at_fork(after_in_child=close_in_child)

    def __enter__(self) -> Self:
        has_told = False
        while not self._acquire():
            if self.wait is None:
                raise LockedError(
                    f"{self.what} is in use by {_holder(self.path)}: wait until it ends, or choose "
                    f"another folder; if it has ended for certain, remove {self.path}"
                )
            if not has_told:
                self.wait(_holder(self.path))
            has_told = True
            time.sleep(_PERIOD)
        return self

    def __exit__(self, *error: object) -> None:
        if self._descriptor is None:
            return
        is_ours = _is_file(self.path, self._descriptor)
        if os.name == "nt":  # it removes no open file
            self._close()
        if is_ours:
            self.path.unlink(missing_ok=True)
        self._close()
        with suppress(OSError):  # of a folder that is in use
            for folder in self._made_folders:
                folder.rmdir()

    def _close(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
        self._descriptor = None

    def _acquire(self) -> bool:
        """Try to get the lock, and return whether it is ours."""
        while True:
            missing = [folder for folder in self.path.parents if not folder.exists()]
            self._made_folders = missing or self._made_folders
            self.path.parent.mkdir(parents=True, exist_ok=True)
            try:
                descriptor, is_new = _open(self.path)
            except FileNotFoundError:
                continue  # another process has just removed the file, or the folder that it made
            except PermissionError:
                if self.path.exists():  # and only another user may read it
                    return False
                raise
            is_locked = _flock(descriptor)
            if is_new and is_locked is not False and _is_file(self.path, descriptor):
                break
            try:
                is_free = _remove_abandoned(self.path, descriptor, is_locked=is_locked)
            finally:
                os.close(descriptor)
            if not is_free:
                return False
        self._descriptor = descriptor
        holder = {
            "pid": os.getpid(),
            "started": _start_time(os.getpid()),
            "host": platform.node(),
            "since": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        try:
            os.write(descriptor, json.dumps(holder).encode())
        except OSError:  # the disk is full: without a name, the file would look abandoned
            self.__exit__()
            raise
        return True


def _open(path: Path) -> tuple[int, bool]:
    """Return a descriptor of a lock file, and whether this call has made the file."""
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666), True
    except FileExistsError:
        pass
    try:
        return os.open(path, os.O_RDWR), False
    except PermissionError:  # the file of another user
        return os.open(path, os.O_RDONLY), False


def _flock(descriptor: int) -> bool | None:
    """Lock a file and return True, or False if another process has, or None without `flock`."""
    try:
        fcntl: Any = importlib.import_module("fcntl")
    except ImportError:  # Windows
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return False if error.errno in _HELD else None
    return True


def _is_file(path: Path, descriptor: int) -> bool:
    """Return whether an open file is still the one at the path."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except OSError:
        return False


def _age(path: Path) -> float:
    """Return for how many seconds a file has not changed; 0 if it is gone."""
    try:
        return time.time() - path.stat().st_mtime
    except OSError:
        return 0.0


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _holder(path: Path) -> str:
    """Return a description of the process that holds a lock."""
    holder = _read(path)
    if not holder:
        return "another process"
    return f"process {holder.get('pid')} on {holder.get('host')}, since {holder.get('since')}"


def _is_abandoned(path: Path) -> bool:
    """Return whether the holder has ended: a process of this machine, or one that wrote no name."""
    if os.name == "nt":  # where signal 0 is a Ctrl-C
        return False
    holder = _read(path)
    if not holder:
        return _age(path) > _NAMED_WITHIN
    pid: Any = holder.get("pid")
    if holder.get("host") != platform.node() or not isinstance(pid, int):
        return False
    try:
        os.kill(pid, 0)  # signal 0 only tests for existence
    except ProcessLookupError:
        return True
    except PermissionError:
        pass  # the process of another user is running
    # After a restart, another process can have the same number: in a container, this one.
    started = _start_time(pid)
    return started is not None and holder.get("started") not in (None, started)


def _start_time(pid: int) -> str | None:
    """Return when a process started, in ticks since the boot; None if there is no /proc."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    return status.rpartition(")")[2].split()[19]  # field 22: proc_pid_stat(5)


def _remove_abandoned(path: Path, descriptor: int, *, is_locked: bool | None) -> bool:
    """Remove an open lock file whose holder has ended; return whether the lock may be free.

    `is_locked` says whether this process has locked the file with `flock`; None: there is none.
    """
    if is_locked is not None:
        if is_locked and _is_file(path, descriptor):
            path.unlink()
        return is_locked
    if not _is_abandoned(path):
        return False
    # One process at a time removes it. A second one that has also found it abandoned would remove
    # the file that the first makes next.
    guard = path.with_name(f"{path.name}.abandoned")
    try:
        os.close(os.open(guard, os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return False
    try:
        if _is_file(path, descriptor):
            path.unlink()
    finally:
        guard.unlink()
    return True
