"""Run a command and measure it: seconds, and the largest memory of all its processes."""

from __future__ import annotations

import os
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from captioner.errors import CaptionerError

OK = (0, 3)  # 3: something is wrong with some images, such as copies of each other
INTERVAL = 0.5  # seconds between two looks at the memory


class Measured(NamedTuple):
    """What a command took."""

    seconds: float
    megabytes: float  # the largest sum over its processes of the memory of each
    stdout: str


def run(command: Sequence[str], *, env: Mapping[str, str] | None = None) -> Measured:
    """Run a command to its end. Memory that processes share counts once.

    Raises:
        CaptionerError: it fails.
    """
    begun = time.monotonic()
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env={**os.environ, **(env or {})}
    ) as process:
        largest = 0.0
        done = threading.Event()

        def watch() -> None:
            nonlocal largest
            while not done.wait(INTERVAL):
                largest = max(largest, _memory(process.pid))

        watcher = threading.Thread(target=watch)
        watcher.start()
        try:
            stdout = process.communicate()[0]
        finally:
            done.set()
            watcher.join()
    if process.returncode not in OK:
        raise CaptionerError(f"{' '.join(command[:6])} ... ended with {process.returncode}")
    return Measured(time.monotonic() - begun, largest, stdout)


def _memory(pid: int) -> float:
    """Return the proportional set size of a process and all its descendants, in MB."""
    children: dict[int, list[int]] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
        except (OSError, ValueError):
            continue
        children.setdefault(parent, []).append(int(folder.name))
    total, pending = 0, [pid]
    while pending:
        one = pending.pop()
        pending += children.get(one, [])
        try:
            lines = Path(f"/proc/{one}/smaps_rollup").read_text().splitlines()
        except OSError:
            continue
        total += sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return total / 1000
