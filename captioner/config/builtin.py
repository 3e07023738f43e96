"""The configs that come with captioner: `shapes` stands for configs/shapes.yaml."""

from __future__ import annotations

import os
from pathlib import Path

from captioner.errors import UsageError

_PACKAGE = Path(__file__).parents[1]
_FOLDERS = (_PACKAGE / "configs", _PACKAGE.parent / "configs")  # of an installation, of a clone
_COMMAND = "# captioner train "  # how a config that can be trained as it is begins


def builtin_configs() -> dict[str, Path]:
    """Return the file of each config that comes with captioner, by its name."""
    folder = next((each for each in _FOLDERS if (each / "shapes.yaml").is_file()), None)
    files = sorted(folder.glob("*.yaml")) if folder else []
    return {
        file.stem: file for file in files if file.read_text(encoding="utf-8").startswith(_COMMAND)
    }


def is_config(path: Path) -> bool:
    """Return whether a path that a command gets is that of a config, or its built-in name."""
    if path.suffix.lower() in (".yaml", ".yml"):
        return True
    return not os.path.exists(path) and _find_name(path) is not None


def find_config(path: Path) -> Path:
    """Return the file of a config, given by its path or its built-in name.

    A file of that name in the current folder, with or without `.yaml`, is used first.

    Raises:
        UsageError: there is no file and no built-in config of this name.
    """
    if os.path.isfile(path):  # returns False for a name that is too long; Path.is_file raises
        return path
    if named := _find_name(path):
        return named
    built_in = builtin_configs()
    if not _may_be_name(path):
        if path.stem in built_in and not os.path.lexists(path):
            raise UsageError(
                f"{path}: there is no such file: check the path, or write {path.stem} for the "
                "built-in config"
            )
        return path  # reading it tells what is wrong with it
    raise UsageError(
        f"{path}: there is no such file, and no built-in config: name a YAML file, or one of "
        f"{', '.join(built_in)}"
    )


def _find_name(path: Path) -> Path | None:
    """Return the file of a name, in the current folder or built in; None if there is none."""
    if not _may_be_name(path):
        return None
    own = path.with_name(f"{path.name}.yaml")
    return own if os.path.isfile(own) else builtin_configs().get(path.name)


def _may_be_name(path: Path) -> bool:
    """Return whether a path has neither a folder nor an ending."""
    return bool(path.name) and str(path) == path.stem
