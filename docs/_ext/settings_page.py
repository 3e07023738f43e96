"""The reference of the settings, from the schema: name, type, range, default and help text."""

from __future__ import annotations

import inspect
import json
import types
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from markdown_text import code, escaped, table
from pydantic.fields import FieldInfo

from captioner.config.run import Config
from captioner.config.schema import InferenceConfig, Section
from captioner.config.service import ServiceConfig
from captioner.devices import LARGEST

_TYPES = {int: "integer", float: "number", bool: "true or false", str: "text", Path: "path"}
_BOUNDS = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}
_ENCODERS = {"ImageEncoderConfig": "image", "TextEncoderConfig": "text"}


class Group(NamedTuple):
    """A section of settings, and the dotted name that leads to it."""

    key: str  # "" of the top
    section: type[Section]

    @property
    def title(self) -> str:
        """Its heading."""
        kind = _ENCODERS.get(self.section.__name__)
        return f"{self.key}, kind: {kind}" if kind else self.key or "The run"

    @property
    def settings(self) -> dict[str, FieldInfo]:
        """Its settings by dotted name, but for those that are sections."""
        prefix = self.key + "." * bool(self.key)
        fields = self.section.model_fields.items()
        return {prefix + name: field for name, field in fields if not _sections_in(field)}


def groups(section: type[Section] = Config, key: str = "") -> Iterator[Group]:
    """Return the sections of the settings, from the top down."""
    yield Group(key, section)
    for name, field in section.model_fields.items():
        for child in _sections_in(field):
            yield from groups(child, f"{key}.{name}".removeprefix("."))


def write_settings() -> str:
    """Return a section for each group of settings."""
    parts = ["## Settings of a run"]
    for group in groups():
        if group.settings:
            parts += [f"### {group.title}", *_write_group(group)]
    parts += [
        "## Settings of inference",
        "They belong to `Captioner`, `Translator` and the options of the commands.",
        *_write_group(Group("", InferenceConfig)),
        "## Settings of the service",
        "They are the options of [captioner serve](cli.md#captioner-serve).",
        *_write_group(Group("", ServiceConfig)),
    ]
    return "\n\n".join(parts)


def _write_group(group: Group) -> list[str]:
    rows = [
        (code(name), _type_of(field), _default_of(field), escaped(field.description or ""))
        for name, field in group.settings.items()
    ]
    text = [escaped(part) for part in inspect.cleandoc(group.section.__doc__ or "").split("\n\n")]
    return [*text, table(("setting", "type", "default", "what it does"), rows)]


def _sections_in(field: FieldInfo) -> list[type[Section]]:
    """Return the sections in a field: one, several of which one is chosen, or those of a list."""

    def find(annotation: Any) -> list[type[Section]]:
        if inspect.isclass(annotation) and issubclass(annotation, Section):
            return [annotation]
        return [each for part in typing.get_args(annotation) for each in find(part)]

    return find(field.annotation)


def _type_of(field: FieldInfo) -> str:
    """Return the type of a setting and its range, as Markdown."""
    return _written_type(field.annotation, field.metadata)


def _written_type(annotation: Any, metadata: Any = ()) -> str:
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Annotated:
        bounds = [
            bound
            for each in arguments[1:]
            for bound in (each.metadata if isinstance(each, FieldInfo) else [each])
        ]
        return _written_type(arguments[0], [*bounds, *metadata])
    if origin is Literal:
        return ", ".join(code(str(choice)) for choice in arguments)
    if origin in (typing.Union, types.UnionType):
        parts = [_written_type(part, metadata) for part in arguments if part is not type(None)]
        return " or ".join(parts)
    if origin is tuple:
        items = [part for part in arguments if part is not Ellipsis]
        item = _written_type(items[0])
        return f"list of {item}" if Ellipsis in arguments else f"{len(items)} × {item}"
    if origin is dict:
        return f"mapping of {_written_type(arguments[0])} to {_written_type(arguments[1])}"
    return _TYPES[annotation] + _written_range(metadata)


def _written_range(metadata: Any) -> str:
    bounds = [
        f"{sign} {getattr(bound, name):g}"
        for bound in metadata
        for name, sign in _BOUNDS.items()
        if abs(getattr(bound, name, None) or 0) != LARGEST and hasattr(bound, name)
    ]
    return f" {escaped(' and '.join(bounds))}" if bounds else ""


def _default_of(field: FieldInfo) -> str:
    """Return the default of a setting as it is written in a config."""
    if field.is_required():
        return "required"
    value = field.default
    if isinstance(value, Path):
        value = value.as_posix()
    if value is None or value == ():
        return "none"
    return code(value if isinstance(value, str) and value else json.dumps(value))
