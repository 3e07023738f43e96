"""YAML that holds what JSON can and no more: what else YAML has can unfold without end, or is a date by accident."""

from __future__ import annotations

import json
from typing import Any

import yaml

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
        raise ValueError(where + " ".join(str(getattr(error, "problem", None) or error).split())) from None
    except OverflowError:
        raise ValueError("a character beyond Unicode's last") from None
