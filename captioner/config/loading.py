"""Read settings from YAML and `key=value`. Errors name every mistake and the nearest known name."""

from __future__ import annotations

import difflib
import json
import typing
from collections.abc import Iterator, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from captioner.config.schema import ImageEncoderConfig, Section, TextEncoderConfig
from captioner.errors import UsageError, shown

"""Most characters of a wrong value in a message."""

_ENCODERS: dict[str, type[Section]] = {"image": ImageEncoderConfig, "text": TextEncoderConfig}


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a config file.

    Raises:
        UsageError: it is missing, is not YAML, or is not a mapping.
    """
    try:
        values = parse_yaml(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}; check the path") from None
    except UnicodeDecodeError as error:
        raise UsageError(
            f"{path} is not UTF-8 text (byte {error.start}): save it as UTF-8"
        ) from None
    except ValueError as error:
        raise UsageError(f"config {path} is not plain YAML: {error}") from None
    if not isinstance(values, dict):
        raise UsageError(f"config {path} holds no settings: expected lines such as 'training:'")
    return values


def apply_overrides(values: dict[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """Return the values with `a.b=value` pairs set; each value is read as YAML.

    Raises:
        UsageError: a pair has no `=`, or its key leads into a value that is not a section.
    """
    values = deepcopy(values)
    for pair in overrides:
        key, equals, text = pair.partition("=")
        if not equals or not key:
            raise UsageError(
                f"'{pair}' is not a setting: write key=value, for example training.batch_size=32"
            )
        try:
            value = parse_yaml(text)
        except ValueError as error:
            problem = f"{key}: '{text}' is not a YAML value ({error})"
            raise UsageError(f"{problem}: put it in quotes") from None
        _set_value(values, _with_index(values, key), value)
    return values


def _with_index(values: dict[str, Any], key: str) -> str:
    """Return a key that leads into `data.train` or `data.dev`, which are a mapping or a list.

    `data.train.repeat` sets the only source; `data.train.1.text` adds a second one to it.

    Raises:
        UsageError: there are several sources, and the key has no number.
    """
    section, _, rest = key.partition(".")
    name, _, setting = rest.partition(".")
    if section != "data" or name not in ("train", "dev") or not setting:
        return key
    data = values["data"] = values.get("data") or {}
    if not isinstance(data, dict):
        return key  # setting it reports the mistake
    sources = data.get(name)
    first = setting.partition(".")[0]
    if first.isdigit():
        listed = [] if sources is None else [sources] if isinstance(sources, dict) else sources
        if isinstance(listed, list) and int(first) == len(listed):
            listed = [*listed, {}]
        data[name] = listed
        return key
    if not isinstance(sources, list):
        return key
    if len(sources) > 1:
        raise UsageError(
            f"'{key}': data.{name} has {len(sources)} sources: write data.{name}.0.{setting}, "
            "or the number of another one"
        )
    data[name] = sources or [{}]
    return f"data.{name}.0.{setting}"


def _set_value(values: dict[str, Any], key: str, value: Any) -> None:
    """Set the value of a key; a number in the key is an index, as in `training.phases.0.epochs`."""
    *parents, last = key.split(".")
    section: Any = values
    try:
        for parent in parents:
            section = _child(section, parent)
        section[int(last) if isinstance(section, list) else last] = value
    except (ValueError, IndexError, TypeError, AttributeError):
        raise UsageError(
            f"'{key}': this config has no such section or list item; check the spelling"
        ) from None


def _child(section: Any, name: str) -> Any:
    """Return the section with this name or list index; a missing section is created."""
    if isinstance(section, list):
        return section[int(name)]
    if section.get(name) is None:
        section[name] = {}
    return section[name]


def merge(base: dict[str, Any], top: dict[str, Any]) -> dict[str, Any]:
    """Return `base` updated with the values of `top`, section by section."""
    sections = {
        key: merge(base[key], value)
        for key, value in top.items()
        if isinstance(value, dict) and isinstance(base.get(key), dict)
    }
    return base | top | sections


def usage_error(
    section: type[Section], error: ValidationError, *, values: object, source: str
) -> UsageError:
    """Return an error that lists every mistake, with the nearest known key for an unknown one."""
    lines = [_describe(section, details, values) for details in error.errors(include_url=False)]
    return UsageError(
        f"{source}: " + ("; ".join(lines) if len(lines) == 1 else "\n  ".join(["", *lines]))
    )


def _describe(section: type[Section], details: Any, values: object) -> str:
    """Return a pydantic error in plain words."""
    key = _written_key(_without_kind(details["loc"]), values)
    value, context = details["input"], details.get("ctx", {})
    match details["type"]:
        case "extra_forbidden":
            return _describe_unknown(section, details["loc"], values)
        case "union_tag_invalid":
            return f"{key}.kind is {context['tag']!r}: choose one of {context['expected_tags']}"
        case "literal_error":
            choices = context["expected"].replace(" or ", ", ")
            return f"{key} is {shown(value)}: choose one of {choices}"
        case "missing":
            return f"{key} is missing"
        case "invalid_key":
            return f"the name {key} is not a string: write it in quotes"
        case "value_error":
            return f"{key}: {context['error']}" if key else str(context["error"])
        case _:
            return f"{key} is {shown(value)}: {details['msg'][0].lower()}{details['msg'][1:]}"


def _describe_unknown(section: type[Section], loc: Sequence[str | int], values: object) -> str:
    """Return that a key is unknown, with the nearest known one that is allowed there."""
    key = _written_key(_without_kind(loc), values)
    plain = ".".join("0" if isinstance(part, int) else str(part) for part in _without_kind(loc))
    known = list(_known_keys(section))
    if len(loc) > 1 and loc[0] == "encoder":
        own = _ENCODERS[str(loc[1])].model_fields
        if plain in known:
            return f"{key} is not for encoder.kind={loc[1]}: leave it out, or change the kind"
        known = [name for name in known if name.removeprefix("encoder.") in own]
    found = difflib.get_close_matches(plain, known, n=1, cutoff=0.5)
    nearest = [_written_key(_location(name), values) for name in found]
    return f"unknown key '{key}'" + (f": did you mean '{nearest[0]}'?" if nearest else "")


def _without_kind(location: Sequence[str | int]) -> Sequence[str | int]:
    """Return a location without the kind of the encoder, which pydantic adds after `encoder`."""
    has_kind = len(location) > 1 and location[0] == "encoder"
    return [location[0], *location[2:]] if has_kind else location


def _location(key: str) -> list[str | int]:
    return [int(part) if part.isdigit() else part for part in key.split(".")]


def _written_key(location: Sequence[str | int], values: object) -> str:
    """Return the key of a location in a config, without the index where one section is no list."""
    parts = []
    for part in location:
        if isinstance(part, int) and isinstance(values, dict) and part not in values:
            continue
        parts.append(str(part))
        try:
            values = values[part]  # type: ignore[index]
        except (KeyError, IndexError, TypeError):
            values = None
    return ".".join(parts)


def _known_keys(section: type[Section], prefix: str = "") -> Iterator[str]:
    for name, field in section.model_fields.items():
        yield prefix + name
        for child in _sections_in(field.annotation):
            index = "0." if typing.get_origin(field.annotation) is tuple else ""
            yield from _known_keys(child, f"{prefix}{name}.{index}")


def _sections_in(annotation: Any) -> list[type[Section]]:
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return [annotation]
    return [section for part in typing.get_args(annotation) for section in _sections_in(part)]


MAX_DEPTH = 32
"""Deepest nesting of sections that is read; deeper YAML could overflow the stack."""


class _PlainLoader(yaml.SafeLoader):
    """Refuses aliases, tags and deep nesting, and reads dates as text."""

    yaml_implicit_resolvers = {  # noqa: RUF012  # as in the base class
        first: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith(":timestamp")]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }
    depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        event: Any = self.peek_event()  # type: ignore[no-untyped-call]
        if problem := self._problem(event):
            raise yaml.MarkedYAMLError(problem=problem, problem_mark=event.start_mark)
        self.depth += 1
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def _problem(self, event: Any) -> str | None:
        if isinstance(event, yaml.AliasEvent):
            return "aliases are not supported: write the value out"
        if getattr(event, "tag", None):
            return "tags are not supported: leave it out"
        return f"more than {MAX_DEPTH} levels deep" if self.depth >= MAX_DEPTH else None


def parse_yaml(text: str) -> Any:
    """Return the values of a YAML text, as JSON would hold them: keys are strings.

    Raises:
        ValueError: names the line and column of the mistake, on one line.
    """
    try:
        return json.loads(json.dumps(yaml.load(text, Loader=_PlainLoader)))
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        raise ValueError(
            where + " ".join(str(getattr(error, "problem", None) or error).split())
        ) from None
    except (OverflowError, ValueError) as error:
        # chr() of a number that is no C int is an OverflowError before Python 3.13
        if isinstance(error, ValueError) and "chr()" not in str(error):
            raise
        raise ValueError("a character code above U+10FFFF") from None
