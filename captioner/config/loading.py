"""Settings as people write them, YAML and key=value, → a config; what is wrong is told with what was meant."""

from __future__ import annotations

import difflib
import json
import types
import typing
from collections.abc import Iterator, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import ValidationError

from captioner.config.schema import Section
from captioner.errors import UsageError

AnySection = TypeVar("AnySection", bound=Section)


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a config file.

    Raises:
        UsageError: it is missing, is not YAML, or is not a mapping.
    """
    try:
        values = parse_yaml(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise UsageError(f"config {path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise UsageError(
            f"config {path} is not UTF-8 text (byte {error.start}): save it as UTF-8"
        ) from None
    except ValueError as error:
        raise UsageError(f"config {path} is not plain YAML: {error}") from None
    if not isinstance(values, dict):
        raise UsageError(f"config {path} holds no settings: expected lines such as 'training:'")
    return values


def apply_overrides(values: dict[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """Set `a.b=value` pairs, read as YAML; a number picks from a list, as in `training.phases.0.epochs=3`.

    Raises:
        UsageError: a pair has no `=`, or its key leads into something that is no section.
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
            raise UsageError(
                f"{key}: '{text}' is not a YAML value ({error}): put it in quotes"
            ) from None
        *parents, last = key.split(".")
        place: Any = values
        try:
            for parent in parents:
                place = place[int(parent)] if isinstance(place, list) else _section(place, parent)
            place[int(last) if isinstance(place, list) else last] = value
        except (ValueError, IndexError, TypeError, AttributeError):
            raise UsageError(f"'{key}' leads nowhere in this config") from None
    return values


def _section(place: dict[str, Any], name: str) -> Any:
    if place.get(name) is None:
        place[name] = {}
    return place[name]


def merge(base: dict[str, Any], top: dict[str, Any]) -> dict[str, Any]:
    """Lay `top` over `base`, section by section."""
    merged = dict(base)
    for key, value in top.items():
        below = base.get(key)
        merged[key] = (
            merge(below, value) if isinstance(below, dict) and isinstance(value, dict) else value
        )
    return merged


def parse(section: type[AnySection], values: dict[str, Any], *, source: str) -> AnySection:
    """Validate `values` as `section`.

    Raises:
        UsageError: lists every mistake in `source`, and for an unknown key or word the nearest known one.
    """
    try:
        return section.model_validate(values)
    except ValidationError as error:
        lines = [_explain(section, details) for details in error.errors(include_url=False)]
    raise UsageError(
        f"{source}: " + ("; ".join(lines) if len(lines) == 1 else "\n  ".join(["", *lines]))
    )


def _explain(section: type[Section], details: Any) -> str:
    key = ".".join(str(part) for part in details["loc"])
    value, context = details["input"], details.get("ctx", {})
    match details["type"]:
        case "extra_forbidden":
            known = list(_known_keys(section))
            plain = ".".join("0" if isinstance(part, int) else str(part) for part in details["loc"])
            nearest = difflib.get_close_matches(plain, known, n=1, cutoff=0.5)
            return f"unknown key '{key}'" + (f": did you mean '{nearest[0]}'?" if nearest else "")
        case "literal_error":
            choices = context["expected"].replace(" or ", ", ")
            return f"{key} is {value!r}: choose one of {choices}"
        case "missing":
            return f"{key} is missing"
        case "value_error":
            return f"{key}: {context['error']}" if key else str(context["error"])
        case _:
            return f"{key} is {value!r}: {details['msg'][0].lower()}{details['msg'][1:]}"


def _known_keys(section: type[Section], prefix: str = "") -> Iterator[str]:
    for name, field in section.model_fields.items():
        yield prefix + name
        for kind in _sections_in(field.annotation):
            place = f"{prefix}{name}." + (
                "0." if typing.get_origin(field.annotation) is tuple else ""
            )
            yield from _known_keys(kind, place)


def _sections_in(annotation: Any) -> Iterator[type[Section]]:
    if isinstance(annotation, type) and not isinstance(annotation, types.GenericAlias):
        if issubclass(annotation, Section):
            yield annotation
        return
    for part in typing.get_args(annotation):
        yield from _sections_in(part)


def to_json(section: Section) -> dict[str, Any]:
    """Plain values, with the defaults written out, so that a run's own copy does not change when they do."""
    values: dict[str, Any] = section.model_dump(mode="json")
    return values


MAX_DEPTH = 32
"""Sections within sections: more than any config needs, and few enough for every reader of them."""


class _PlainLoader(yaml.SafeLoader):
    """Refuses aliases, tags and what is nested too deep; reads dates as text."""

    yaml_implicit_resolvers = {  # noqa: RUF012  # as it is declared there
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
            return "aliases are not read, write it out"
        if getattr(event, "tag", None):
            return "tags are not read, leave it out"
        return f"more than {MAX_DEPTH} levels deep" if self.depth >= MAX_DEPTH else None


def parse_yaml(text: str) -> Any:
    """Give the values as JSON would: keys are text.

    Raises:
        ValueError: says on one line where it is not YAML, or not plain, and how.
    """
    try:
        return json.loads(json.dumps(yaml.load(text, Loader=_PlainLoader)))
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        raise ValueError(
            where + " ".join(str(getattr(error, "problem", None) or error).split())
        ) from None
    except OverflowError:
        raise ValueError("a character beyond Unicode's last") from None
