"""Packages that captioner needs, and that are missing or too old. It imports none of them."""

from __future__ import annotations

import re
import tomllib
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

_REQUIREMENT = re.compile(r"([\w.-]+)\s*>=\s*([\d.]+)$")


def unmet_requirement() -> str | None:
    """Return what is wrong with the first package that is missing or too old, and the way out."""
    for requirement in _requirements():
        match = _REQUIREMENT.match(requirement)
        if match is None:  # of an extra
            continue
        name, least = match.groups()
        try:
            installed = version(name)
        except PackageNotFoundError:
            return f"the package {name} is not installed: pip install '{name}>={least}'"
        if _numbers(installed) < _numbers(least):
            return (
                f"{name} {installed} is too old, captioner needs {least} or newer: "
                f"pip install --upgrade '{name}>={least}'"
            )
    return None


def _requirements() -> list[str]:
    """Return the packages that captioner needs, each as in "torch>=2.6"."""
    # of a clone: what was recorded when it was installed may be older
    project = Path(__file__).parents[2] / "pyproject.toml"
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
