"""Packages that captioner needs, and that are missing or too old. It imports none of them."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, requires, version
from importlib.util import find_spec
from pathlib import Path

from captioner.errors import MissingPackageError

_REQUIREMENT = re.compile(r"([\w.-]+)\s*>=\s*([\d.]+)$")
_PACKAGES = {"PIL": "pillow", "yaml": "pyyaml"}  # modules that are not named like their package


def outdated_package() -> str | None:
    """Return the first package that is too old, and the way out, for a message."""
    for name, least in _required():
        with suppress(PackageNotFoundError):
            installed = version(name)
            if _numbers(installed) < _numbers(least):
                return (
                    f"{name} {installed} is too old, captioner needs {least} or newer: "
                    f"pip install --upgrade '{name}>={least}'"
                )
    return None


def check_torch(needed_by: str, *, way_out: str) -> None:
    """Raise an error if torch is not installed, before anything imports it.

    Args:
        needed_by: what needs torch, for the message.
        way_out: how to do without torch, for the message.

    Raises:
        MissingPackageError: torch is not installed.
    """
    if find_spec("torch") is None:
        raise MissingPackageError(_message("torch", needed_by, f"{way_out}, or "))


def missing_package(error: ImportError, needed_by: str) -> MissingPackageError | None:
    """Return the error of a package that captioner requires, if an import failed for its lack.

    Args:
        error: what the import raised.
        needed_by: what needs the package, for the message.
    """
    module = (error.name or "").partition(".")[0]
    package = _PACKAGES.get(module, module)
    if package not in dict(_required()) or _is_installed(package):
        return None
    return MissingPackageError(_message(package, needed_by))


def _message(package: str, needed_by: str, way_out: str = "") -> str:
    # Who has all but torch has chosen the install for captioning, which lacks others too: they
    # are named together, or the next command would ask for the next of them.
    missing = [
        (name, least)
        for name, least in _required()
        if name == package or (package == "torch" and not _is_installed(name))
    ]
    command = " ".join(["pip install", *(f"'{name}>={least}'" for name, least in missing)])
    return f"{needed_by} needs the package {package}, which is not installed: {way_out}{command}"


def _is_installed(package: str) -> bool:
    try:
        version(package)
    except PackageNotFoundError:
        return False
    return True


def _required() -> Iterable[tuple[str, str]]:
    """Yield the name and the least version of each package that captioner needs."""
    for requirement in _requirements():
        if match := _REQUIREMENT.match(requirement):  # not of an extra
            yield match[1], match[2]


def _requirements() -> list[str]:
    """Return the packages that captioner needs, each as in "torch>=2.6"."""
    # of a clone: what was recorded when it was installed may be older
    project = Path(__file__).parents[1] / "pyproject.toml"
    with suppress(OSError, ValueError, KeyError):
        values = tomllib.loads(project.read_text(encoding="utf-8"))["project"]
        if values["name"] == "captioner":
            return list(values["dependencies"])
    with suppress(PackageNotFoundError):
        return requires("captioner") or []
    return []


def _numbers(text: str) -> list[int]:
    """Return the numbers of a version: [2, 6] for "2.6", "2.6.0" and "2.6+cu124"."""
    release = re.match(r"[\d.]*", text)
    numbers = [int(part) for part in (release[0] if release else "").split(".") if part]
    while numbers[-1:] == [0]:
        numbers.pop()
    return numbers
