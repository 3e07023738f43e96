"""Processes of Ray runs, found and killed by tests."""

import os
import signal
from pathlib import Path

ACTOR = b"ray::MapWorker"


def descendants(pid):
    """Return the processes below one, by their ids, with their command lines."""
    parents = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            status = (folder / "stat").read_text().rpartition(")")[2].split()
        except OSError:  # it has just ended
            continue
        if status[0] != "Z":
            parents[int(folder.name)] = int(status[1])
    found, level = {}, {pid}
    while level := {each for each, parent in parents.items() if parent in level}:
        for each in level:
            try:
                found[each] = Path(f"/proc/{each}/cmdline").read_bytes()
            except OSError:
                continue
    return found


def actors(pid):
    """Return the actors that caption for a driver."""
    return [each for each, name in descendants(pid).items() if name.startswith(ACTOR)]


def kill(pid):
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def are_running(pids):
    return [pid for pid in pids if Path(f"/proc/{pid}").exists() and not _is_zombie(pid)]


def _is_zombie(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True
