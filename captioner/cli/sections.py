"""Help texts whose options are in sections, each under a heading of its own."""

from __future__ import annotations

from typing import Any

from typer.core import TyperCommand

OPTIONS = "Options"  # the heading of options that are in no other section


class SectionedCommand(TyperCommand):
    """A command whose function has, in `sections`, the names of the parameters under a heading."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write the arguments, and the options in their sections."""
        sections = getattr(self.callback, "sections", {})
        section_of = {name: title for title, names in sections.items() for name in names}
        rows: dict[str, list[tuple[str, str]]] = {"Arguments": [], OPTIONS: []}
        rows |= {title: [] for title in sections}
        for parameter in self.get_params(ctx):
            is_argument = parameter.param_type_name == "argument"
            title = "Arguments" if is_argument else section_of.get(parameter.name or "", OPTIONS)
            if (row := parameter.get_help_record(ctx)) is not None:
                rows[title].append(row)
        for title, written in rows.items():
            if written:
                with formatter.section(title):
                    formatter.write_dl(written)
