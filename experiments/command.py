"""Command lines of the experiments and benchmarks: one command, errors in one line."""

from __future__ import annotations

import typer

from captioner.cli.options import with_option_names
from captioner.console import program


def new_app() -> typer.Typer:
    """Return an app of one command."""
    return typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


def run_app(app: typer.Typer, module: str) -> None:
    """Run the app of `module`. Print a CaptionerError in one line and exit with its code."""
    with program(module.rpartition(".")[2], describe=with_option_names):
        app(prog_name=f"python -m {module}")
