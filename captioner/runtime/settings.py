"""Decoding settings without pydantic: checked against the schema that graphs.json holds of them."""

from __future__ import annotations

import difflib
import math
import operator
from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any, Literal, Protocol, cast

from captioner.errors import UsageError, parameter, shown


class Settings(Protocol):
    """The settings of a search; `DecodingConfig`, which explains each, has them and others."""

    captions: int
    max_length: int
    min_length: int
    min_confidence: float
    beam: int
    length_norm: Literal["none", "average", "wu"]
    length_alpha: float
    prefix: str
    require: tuple[str, ...]
    forbid: tuple[str, ...]
    no_repeat_ngram: int | None
    no_double_words: bool
    no_repeat_words: bool


TORCH_ONLY: Mapping[str, object] = {
    "method": "beam", "groups": 1, "require": (), "replace_unknown": False,
}  # fmt: skip
"""Settings that need the backend 'torch', unless they have these values."""

WITHOUT_EFFECT = ("length_ratio", "diversity", "temperature", "top_k", "top_p", "seed")
"""Settings that only matter for texts, or beside another value of a setting in `TORCH_ONLY`."""


def check_supported(values: Mapping[str, object]) -> None:
    """Raise a UsageError for settings that need torch."""
    if names := torch_only(values):
        needed = " and ".join(map(parameter, names))
        raise UsageError(f"{needed} needs the backend 'torch': choose it, or leave it out")


def torch_only(values: Mapping[str, object]) -> list[str]:
    """Return the names of the settings whose values need torch."""
    return [
        name
        for name, neutral in TORCH_ONLY.items()
        if name in values and _plain(values[name]) != _plain(neutral)
    ]


def _plain(value: object) -> object:
    return list(value) if isinstance(value, tuple) else value


def read_settings(
    changes: Mapping[str, object], stored: Mapping[str, object], schema: Mapping[str, Any]
) -> Settings:
    """Return the settings that a model folder stores, with `changes`.

    Args:
        changes: settings that differ, as in {"beam": 5}.
        stored: those of the folder; they may lack some.
        schema: the JSON schema of each setting that can be changed.

    Raises:
        UsageError: lists every mistake in `changes`; or a setting needs torch.
    """
    values = {**stored, **changes}
    check_supported(values)
    problems = []
    parsed: dict[str, object] = {}
    for name, rules in schema.items():
        try:
            parsed[name] = _parse(values[name], rules) if name in values else rules["default"]
        except ValueError as error:
            problems.append(f"{name} is {shown(values[name])}: {error}")
    others = [name for name in changes if name not in schema and name not in TORCH_ONLY]
    for name in others:
        if name not in WITHOUT_EFFECT:
            problems.append(_unknown(name, [*schema, *TORCH_ONLY, *WITHOUT_EFFECT]))
        elif changes[name] != stored.get(name):
            problems.append(f"{name} needs the backend 'torch': choose it, or leave it out")
    if not problems and parsed["min_length"] > parsed["max_length"]:  # type: ignore[operator]
        problems.append(
            f"min_length ({parsed['min_length']}) is above max_length ({parsed['max_length']})"
        )
    if problems:
        lines = problems[0] if len(problems) == 1 else "\n  ".join(["", *problems])
        raise UsageError(f"decoding: {lines}")
    return cast(Settings, SimpleNamespace(**{**TORCH_ONLY, **parsed}))


def _unknown(name: object, known: Sequence[str]) -> str:
    if not isinstance(name, str):
        return f"the name {name} is not a string: write it in quotes"
    nearest = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"unknown key '{name}'" + (f": did you mean '{nearest[0]}'?" if nearest else "")


def _parse(value: object, rules: Mapping[str, Any]) -> object:
    """Return a value as JSON schema `rules` describe it; a ValueError says what it should be."""
    if "anyOf" in rules:
        may_be_none = any(each.get("type") == "null" for each in rules["anyOf"])
        if value is None and may_be_none:
            return None
        return _parse(value, next(each for each in rules["anyOf"] if each.get("type") != "null"))
    if "enum" in rules:
        if value not in rules["enum"]:
            raise ValueError(f"choose one of {', '.join(map(repr, rules['enum']))}")
        return value
    match rules["type"]:
        case "integer":
            return _within(_to_integer(value), rules)
        case "number":
            return _within(_to_number(value), rules)
        case "boolean":
            if value not in (True, False) or isinstance(value, float):
                raise ValueError("input should be a valid boolean")
            return bool(value)
        case "string":
            if not isinstance(value, str):
                raise ValueError("input should be a valid string")
            return value
        case "array":
            items = (value,) if isinstance(value, str) else value
            is_list = isinstance(items, list | tuple)
            if not is_list or not all(isinstance(each, str) for each in cast(Any, items)):
                raise ValueError("input should be a valid list of strings")
            return tuple(cast(Any, items))
        case other:
            raise ValueError(f"this captioner knows no settings of type {other}")


def _to_integer(value: object) -> int:
    try:
        if isinstance(value, bool):
            raise TypeError("a boolean is no number")
        if isinstance(value, float | str):
            if int(value) != float(value):
                raise ValueError("a fraction")
            return int(value)
        return operator.index(cast(Any, value))
    except (TypeError, ValueError, OverflowError):
        raise ValueError("input should be a valid integer") from None


def _to_number(value: object) -> float:
    try:
        if isinstance(value, bool):
            raise TypeError("a boolean is no number")
        number = float(cast(Any, value))
    except (TypeError, ValueError, OverflowError):
        raise ValueError("input should be a valid number") from None
    if not math.isfinite(number):
        raise ValueError("input should be a finite number")
    return number


def _within(number: float, rules: Mapping[str, Any]) -> float:
    """Return a number that is within the limits of its schema."""
    for key, is_within, words in (
        ("minimum", operator.ge, "greater than or equal to"),
        ("exclusiveMinimum", operator.gt, "greater than"),
        ("maximum", operator.le, "less than or equal to"),
        ("exclusiveMaximum", operator.lt, "less than"),
    ):
        if key in rules and not is_within(number, rules[key]):
            raise ValueError(f"input should be {words} {rules[key]}")
    return number
