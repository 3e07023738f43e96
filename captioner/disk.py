"""How much room there is on a disk, and whether it is enough."""

from __future__ import annotations

import shutil
from pathlib import Path

from captioner.errors import CaptionerError

_MIB = 2**20


def free_space(path: Path) -> int:
    """Give the MiB that are free where `path` is, or would be."""
    there = next(folder for folder in (path.absolute(), *path.absolute().parents) if folder.exists())
    return shutil.disk_usage(there).free // _MIB


def check_space(folder: Path, needed: int, *, what: str, way_out: str) -> None:
    """Make sure, before any work is done for it, that `needed` bytes find room.

    Raises:
        CaptionerError: they do not.
    """
    if needed // _MIB > free_space(folder):
        raise CaptionerError(
            f"{folder}: {what} take {needed // _MIB:,} MiB, and {free_space(folder):,} are free: "
            f"free some space, choose another --output, or {way_out}"
        )


def size_of(folder: Path) -> int:
    """Give the bytes of a folder's files."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
