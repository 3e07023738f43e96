"""What the scripts with options have in common: how they are declared, and how they end."""

from __future__ import annotations

import sys
from pathlib import Path

import typer

from captioner.errors import CaptionerError


def new_app() -> typer.Typer:
    """Make an app of one command."""
    return typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


def run_app(app: typer.Typer) -> None:
    """Run it; what the user can mend is said in one line, with the exit code that belongs to it."""
    script = sys.argv[0]
    try:
        app(prog_name=f"python {script}")
    except CaptionerError as error:
        typer.echo(f"{Path(script).stem}: {error}", err=True)
        sys.exit(error.exit_code)
