"""The reference of the command line, from the app itself: usage, help, and every option."""

from __future__ import annotations

import inspect
import re
from typing import Any

import typer
from markdown_text import code, escaped, table

from captioner.cli.app import COMMANDS, load
from captioner.cli.sections import OPTIONS

# A help record ends with its extras: `Number of beams.  [default: 3; x>=1; required]`
_RECORD = re.compile(r"(?P<help>.*?)(?:\s\s\[(?P<extras>.*)\])?", re.DOTALL)
_DEFAULT = re.compile(r"default: (\((?P<said>.*)\)|(?P<value>[^;]*))")
_RANGE = re.compile(r"(?:(?P<low>[^<>=; ]+)<=)?x(?:>=(?P<least>.+)|<=(?P<high>.+))")

# What typer writes after an option that takes a value.
_TYPE = re.compile(r"<(.*)>")
_VALUES = {
    **{"int": "INTEGER", "int range": "INTEGER", "float": "NUMBER", "float range": "NUMBER"},
    **{"str": "TEXT", "list[str]": "TEXT", "path": "PATH"},
}


def write_commands() -> str:
    """Return the sections of all commands."""
    app = typer.main.get_command(load(COMMANDS))
    commands = app.commands  # type: ignore[attr-defined]
    return "\n\n".join(_write_command(name, commands[name]) for name in COMMANDS)


def _write_command(name: str, command: Any) -> str:
    context = command.make_context(f"captioner {name}", [], resilient_parsing=True)
    arguments = [
        _argument_name(parameter.get_help_record(context)[0])
        for parameter in command.get_params(context)
        if parameter.param_type_name == "argument"
    ]
    usage = " ".join([f"captioner {name} [OPTIONS]", *arguments])
    help_text = [escaped(part) for part in inspect.cleandoc(command.help).split("\n\n")]
    example = command.epilog.removeprefix("Example: ")
    parts = [
        f"## captioner {name}",
        *help_text,
        f"```text\n{usage}\n```",
        f"Example: `{example}`",
    ]
    for title, rows in _rows_by_section(command, context).items():
        first = "argument" if title == "Arguments" else "option"
        parts += [f"### {title} of {name}", table((first, "default", "what it does"), rows)]
    return "\n\n".join(parts)


def _rows_by_section(command: Any, context: Any) -> dict[str, list[tuple[str, ...]]]:
    """Return a row for each parameter, under the headings that the help text has."""
    sections = getattr(command.callback, "sections", {})
    section_of = {name: title for title, names in sections.items() for name in names}
    rows: dict[str, list[tuple[str, ...]]] = {"Arguments": [], OPTIONS: []}
    rows |= {title: [] for title in sections}
    for parameter in command.get_params(context):
        record = parameter.get_help_record(context)
        if record is None:
            continue
        is_argument = parameter.param_type_name == "argument"
        title = "Arguments" if is_argument else section_of.get(parameter.name, OPTIONS)
        names = _argument_name(record[0]) if is_argument else _option_names(record[0])
        is_switch = getattr(parameter, "is_flag", False) and parameter.name != "help"
        rows[title].append((code(names), *_default_and_help(record[1], is_switch=is_switch)))
    return {title: written for title, written in rows.items() if written}


def _argument_name(name: str) -> str:
    return _TYPE.sub("", name).strip()


def _option_names(names: str) -> str:
    return _TYPE.sub(lambda type_name: _VALUES.get(type_name[1], type_name[1]), names)


def _default_and_help(text: str, *, is_switch: bool) -> tuple[str, str]:
    """Return two cells from what a help record says of a parameter."""
    record = _RECORD.fullmatch(text)
    assert record is not None  # the expression matches any text
    extras = record["extras"] or ""
    default = "off" if is_switch else ""
    if found := _DEFAULT.search(extras):
        default = found["said"] or found["value"]
        extras = extras.replace(found[0], "")
    if "required" in extras:
        default = "required"
    limits = _RANGE.search(extras)
    return escaped(default), escaped(record["help"]) + (f" {_in_words(limits)}" if limits else "")


def _in_words(limits: re.Match[str]) -> str:
    """Return the range of a number: `0<=x<=1` is 0 to 1."""
    if limits["least"]:
        return f"({limits['least']} or more)"
    if limits["low"]:
        return f"({limits['low']} to {limits['high']})"
    return f"(at most {limits['high']})"
