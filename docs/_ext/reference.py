"""The pages of reference/, written at each build from the commands, the settings and the package.

A page holds `<!-- generated: NAME -->` where the text of `WRITERS[NAME]` goes, so no page is stale.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from typing import Any

from commands_page import write_commands
from settings_page import write_settings

import captioner

MARK = re.compile(r"<!-- generated: (\w+) -->")


def write_api() -> str:
    """Return a directive of autodoc for each public name of the package, in sections."""
    sections: dict[str, list[str]] = {"Classes": [], "Functions": [], "Errors": []}
    for name in captioner.__all__:
        value = getattr(captioner, name)
        if inspect.isroutine(value):
            sections["Functions"].append(f".. autofunction:: captioner.{name}")
        elif inspect.isclass(value) and issubclass(value, Exception):
            sections["Errors"].append(f".. autoexception:: captioner.{name}\n   :show-inheritance:")
        elif inspect.isclass(value):
            members = "" if name == "Config" else "\n   :members:"  # its settings have a page
            sections["Classes"].append(f".. autoclass:: captioner.{name}{members}")
    return "\n\n".join(
        f"## {title}\n\n```{{eval-rst}}\n" + "\n\n".join(directives) + "\n```"
        for title, directives in sections.items()
    )


WRITERS: dict[str, Callable[[], str]] = {
    "commands": write_commands,
    "settings": write_settings,
    "api": write_api,
}


def fill(text: str) -> str:
    """Return the text of a page with its generated parts."""
    return MARK.sub(lambda mark: WRITERS[mark[1]](), text)


def setup(app: Any) -> dict[str, Any]:
    """Register the extension with Sphinx."""

    def read(_: Any, docname: str, source: list[str]) -> None:
        if docname.startswith("reference/"):
            source[0] = fill(source[0])

    def always_read(_: Any, env: Any, *_changes: Any) -> list[str]:
        return [name for name in env.found_docs if name.startswith("reference/")]

    def keep_colons(_: Any, what: str, *rest: Any) -> None:
        if what == "property":  # napoleon takes what precedes a colon in the first line for a type
            rest[-1].insert(0, "")

    app.connect("autodoc-process-docstring", keep_colons, priority=400)  # before napoleon
    app.connect("source-read", read)
    app.connect("env-get-outdated", always_read)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
