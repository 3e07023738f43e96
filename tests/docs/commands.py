"""Parse a command line without running it: options, settings and files that it names must exist."""

from __future__ import annotations

import io
import os
import re
import runpy
import sys
import tomllib
from argparse import ArgumentParser
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any
from unittest import mock

from snippets import ROOT
from typer.core import TyperCommand

from captioner.cli.app import main
from captioner.config.builtin import is_config
from captioner.config.loading import apply_overrides
from captioner.config.schema import DecodingConfig
from captioner.errors import CaptionerError
from captioner.models.folder import load_config

OURS = re.compile(r"(benchmarks|experiments|captioner)(\.|$)")
"""Modules whose command lines are parsed."""


class Parsed(Exception):
    """A parser of argparse has accepted its arguments."""


def fault(command: Sequence[str], folder: Path) -> str:
    """Return what is wrong with a command in a folder, or nothing."""
    out = io.StringIO()
    here = os.getcwd()
    os.chdir(folder)
    try:
        with redirect_stdout(out), redirect_stderr(out):
            _check(command)
    except (CaptionerError, OSError, ImportError, AssertionError) as error:
        return str(error)
    except SystemExit as end:
        return out.getvalue() if end.code else ""
    finally:
        os.chdir(here)
    return ""


def _check(command: Sequence[str]) -> None:
    match list(command):
        case ["captioner", *arguments]:
            with _parsing_only():
                main(arguments)
        case ["torchrun", *arguments]:
            at = arguments.index("-m")
            _check(["python", *arguments[at:]])
        case ["python", "-m", module, *arguments] if OURS.match(module):
            with _parsing_only(), mock.patch.object(sys, "argv", [module, *arguments]):
                name = "captioner.__main__" if module == "captioner" else module
                runpy.run_module(name, run_name="__main__", alter_sys=True)
        case ["python", script, *arguments] if script.startswith(("scripts/", "examples/")):
            with _parsing_only(), mock.patch.object(sys, "argv", [script, *arguments]):
                runpy.run_path(str(ROOT / script), run_name="__main__")
        case ["pip", "install", *arguments]:
            _check_requirements(arguments)
        case ["pytest", *arguments]:
            missing = [each for each in _paths(arguments) if not (ROOT / each).exists()]
            assert not missing, f"there is no {', '.join(missing)}"


@contextmanager
def _parsing_only() -> Iterator[None]:
    """Commands parse their arguments, check the settings among them, and end."""

    def invoke(self: TyperCommand, context: Any) -> None:
        _check_settings(self.name or "", context.params)

    parse_args = ArgumentParser.parse_args

    def parse(self: ArgumentParser, *arguments: Any) -> None:
        parse_args(self, *arguments)
        raise Parsed

    with (
        mock.patch.object(TyperCommand, "invoke", invoke),
        mock.patch.object(ArgumentParser, "parse_args", parse),
    ):
        try:
            yield
        except Parsed:
            pass
        except SystemExit as end:
            if end.code:
                raise


def _check_settings(name: str, values: dict[str, Any]) -> None:
    settings = values.get("settings") or []
    if name == "defaults":
        DecodingConfig.parse(apply_overrides({}, settings), source="decoding")
    elif name == "decodings":
        for row in settings:
            DecodingConfig.parse(apply_overrides({}, row.split()), source="decoding")
    elif config := values.get("config"):
        load_config(config, [each for each in settings if not _starts_from_missing(each)])
    elif (source := values.get("source")) and "settings" in values and is_config(source):
        load_config(source, settings)


def _starts_from_missing(setting: str) -> bool:
    """Tell whether it names a model that commands before this one would have trained."""
    name, _, value = setting.partition("=")
    return name == "init" and not Path(value).exists()


def _check_requirements(arguments: Sequence[str]) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    for before, word in zip(["", *arguments], arguments, strict=False):
        if before == "-r":
            assert (ROOT / word).is_file(), f"there is no {word}"
        elif named := re.fullmatch(r"(?:\.|captioner)\[([\w,]+)\]", word):
            unknown = set(named[1].split(",")) - set(project["optional-dependencies"])
            assert not unknown, f"there is no extra {', '.join(unknown)}"


def _paths(arguments: Sequence[str]) -> list[str]:
    """Return the paths among the arguments of pytest."""
    return [each.partition("::")[0] for each in arguments if each.startswith("tests/")]


def read_commands(file: Path) -> Iterator[tuple[int, list[str]]]:
    """Yield the commands that `parse_only` of prelude.sh has written down, with their lines."""
    if not file.exists():
        return
    words = file.read_text(encoding="utf-8").split("\0")[:-1]
    while words:
        line, count, *words = words
        command, words = words[: int(count)], words[int(count) :]
        yield int(line), command
