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
        self.path, self.what, self.wait = path, what, wait
        self._descriptor: int | None = None
        self._made_folders: list[Path] = []  # the innermost first
        if hasattr(os, "register_at_fork"):
            # A worker process that outlives the holder would keep its lock.
            close = weakref.WeakMethod(self._close)
            os.register_at_fork(after_in_child=lambda: (close() or _nothing)())

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
            is_new = not self.path.exists()
            exclusive = os.O_EXCL if is_new else 0
            try:
                descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | exclusive, 0o666)
            except (FileExistsError, FileNotFoundError):
                continue  # another process has just made it, or removed the folder that it made
            is_ours = _flock(descriptor)
            if is_ours is None:
                is_ours = is_new or _is_abandoned(self.path)
            if is_ours and _is_file(self.path, descriptor):
                break
            os.close(descriptor)
            if not is_ours:
                return False
            # its holder ended and removed the file after it was opened here: try again
        self._descriptor = descriptor
        holder = {
            "pid": os.getpid(),
            "host": platform.node(),
            "since": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        with suppress(OSError):  # on a full disk the holder stays unnamed
            os.ftruncate(descriptor, 0)
            os.write(descriptor, json.dumps(holder).encode())
        return True


def _nothing() -> None:
    """Stand for a lock that no longer exists."""


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
    """Return whether the holder was a process of this machine that has ended."""
    holder = _read(path)
    pid: Any = holder.get("pid")
    is_local = holder.get("host") == platform.node() and isinstance(pid, int)
    if not is_local or os.name == "nt":  # where signal 0 is a Ctrl-C
        return False
    try:
        os.kill(pid, 0)  # signal 0 only tests for existence
    except ProcessLookupError:
        return True
    except OSError:  # the process of another user is running
        return False
    return False
