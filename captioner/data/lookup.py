"""Find the images that annotations name, also where the names are written otherwise than the files.

Names come from other machines: their paths, their separators, their forms of Unicode and of case.
Nothing outside the folder of the images is found, and no two names get the same file by a guess.
"""

from __future__ import annotations

import contextlib
import os
import re
import unicodedata
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote, unquote

MAX_FOLDERS = 100  # beside the images, to look for a missing one as a hint
_DRIVE = re.compile(r"[A-Za-z]:[\\/]")
_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")


class Lookup(NamedTuple):
    """Where the images are, as paths relative to their folder, by the names that were given."""

    found: dict[str, str]
    respelled: dict[str, str]  # of `found`, those whose file has another name
    missing: dict[str, str]  # and what would help, if anything is known: "there is 1.png"


class ImageFolder:
    """A folder of images. Each folder in it is listed once: a network disk is slow to ask."""

    def __init__(self, root: Path, base: Path) -> None:
        """Store the folder, and that of the annotations, which their names may be relative to."""
        self.root = root
        self._bases = [os.path.abspath(folder) for folder in (root, base, root / "..")]
        self._listings: dict[str, set[str]] = {}
        self._by_fold: dict[str, dict[str, list[str]]] = {}
        self._by_stem: dict[str, dict[str, str]] = {}

    def find_all(self, names: Iterable[str]) -> Lookup:
        """Find the images of all names, each exactly as it is written if there is such a file."""
        names = list(dict.fromkeys(names))
        found = {name: name for name in names if not is_outside(name) and self.has(name)}
        taken = {os.path.normpath(name) for name in found}
        guesses = {name: self.guess(name) for name in names if name not in found}
        wanted: dict[str, list[str]] = {}  # file → the names for which it is a guess
        for name, file in guesses.items():
            if file:
                wanted.setdefault(file, []).append(name)
        lookup = Lookup(found, {}, {})
        for name, file in guesses.items():
            others = [repr(other) for other in wanted.get(file or "", []) if other != name]
            if file and file not in taken and not others:
                lookup.found[name] = lookup.respelled[name] = file
            elif file:
                owner = f"that of {others[0]} too" if others else "another image"
                lookup.missing[name] = f"{file!r} is {owner}"
            else:
                lookup.missing[name] = self._hint(name)
        return lookup

    def has(self, name: str) -> bool:
        """Return whether there is a file of exactly this name."""
        folder, base = os.path.split(name)
        # A listing may write a name in another case, if the file system ignores case.
        return base in self._listing(folder) or os.path.isfile(self.root / name)

    def guess(self, name: str) -> str | None:
        """Return the file that a name most likely means, or None."""
        return next(filter(None, map(self._locate, self._candidates(name))), None)

    def _candidates(self, name: str) -> Iterator[str]:
        """Yield what a name may mean as paths in the folder, the likeliest first."""
        slashed = name.replace("\\", "/")
        is_address = _ADDRESS.match(slashed) is not None
        bare = slashed.partition("?")[0] if is_address else slashed  # "https://h/1.jpg?size=3"
        for path in dict.fromkeys((slashed, unquote(slashed), unquote(bare).strip())):
            for base in self._bases:  # "../images/1.jpg", or an absolute path of this machine
                with contextlib.suppress(ValueError):  # it is on another drive of Windows
                    inside = os.path.relpath(os.path.join(base, path), self._bases[0])
                    if not is_outside(inside):
                        yield inside
            if is_outside(name) or is_address:  # a path of another machine
                parts = [part for part in path.split("/") if part not in ("", ".", "..")]
                yield from ("/".join(parts[start:]) for start in range(len(parts)))

    def _locate(self, path: str) -> str | None:
        """Return a file of the folder, without regard to case and form of Unicode; else None."""
        place = ""
        for part in path.replace(os.sep, "/").split("/"):
            if part not in self._listing(place):
                same = self._folded(place).get(_fold(part), [])
                if len(same) != 1:
                    return None
                part = same[0]
            place = os.path.join(place, part)
        return place if os.path.isfile(self.root / place) else None

    def _listing(self, folder: str) -> set[str]:
        if folder not in self._listings:
            self._listings[folder] = set()
            with contextlib.suppress(OSError, ValueError):  # then each file is checked on its own
                self._listings[folder].update(os.listdir(self.root / folder))
        return self._listings[folder]

    def _folded(self, folder: str) -> dict[str, list[str]]:
        """Return the names in a folder by what they are without case."""
        if folder not in self._by_fold:
            self._by_fold[folder] = {}
            for name in sorted(self._listing(folder)):
                self._by_fold[folder].setdefault(_fold(name), []).append(name)
        return self._by_fold[folder]

    def _hint(self, name: str) -> str:
        """Return a file with the same name but for its ending, as a hint; else ""."""
        folder, base = os.path.split(name.replace("\\", "/"))
        folder = "" if is_outside(folder) else folder
        if folder not in self._by_stem:
            self._by_stem[folder] = {
                _fold(os.path.splitext(actual)[0]): actual
                for actual in sorted(self._listing(folder))
            }
        stems = self._by_stem[folder]
        actual = stems.get(_fold(os.path.splitext(base)[0])) or stems.get(_fold(base))
        return f"there is {actual!r}" if actual else ""


def find_elsewhere(name: str, parents: Iterable[Path]) -> Path | None:
    """Return the first of some folders, or of the folders in them, that holds an image; or None.

    Only the last part of a name that leads out of its folder is looked for.
    """
    if is_outside(name):
        name = re.split(r"[/\\]", name)[-1]
        parents = () if is_outside(name) else parents  # the last part is ".."
    for parent in parents:
        with contextlib.suppress(OSError, ValueError):
            inside = sorted(entry.path for entry in os.scandir(parent) if entry.is_dir())
            for folder in (parent, *map(Path, inside[:MAX_FOLDERS])):
                if (folder / name).is_file():
                    return folder
    return None


def missing_path(root: Path, name: str) -> Path:
    """Return a path in the folder for a missing image, also if its name leads out of the folder.

    Such a name is quoted: nothing outside can be opened, and messages show what it was.
    """
    return root / (quote(name, safe="").replace("..", "%2E%2E") if is_outside(name) else name)


def is_outside(name: str) -> bool:
    """Return whether a file name leads out of its folder: it is absolute, or has ".."."""
    is_absolute = name.startswith(("/", "\\")) or bool(os.path.splitdrive(name)[0])
    return is_absolute or bool(_DRIVE.match(name)) or ".." in re.split(r"[/\\]", name)


def _fold(name: str) -> str:
    """Return a name without case, in one form of Unicode: macOS writes "é" as two characters."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())
