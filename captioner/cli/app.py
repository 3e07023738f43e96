"""The command line: `captioner COMMAND`. Imports torch only when there is something to compute."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from captioner.cli.options import with_option_names
from captioner.cli.sections import SectionedCommand
from captioner.console import program
from captioner.errors import UsageError
from captioner.requirements import missing_package

COMMANDS = (
    *("caption", "translate", "train", "check", "evaluate"),
    *("compare", "score", "calibrate", "defaults", "shard", "export", "push", "serve"),
)
"""Each command is a function in a file of the same name, which also has an `EXAMPLE`."""

INTERRUPTED = 130  # the exit code that typer uses after Ctrl-C


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command. An error that the user can fix is one line on stderr, and an exit code."""
    with program("captioner", describe=with_option_names):
        _main(sys.argv[1:] if arguments is None else list(arguments))


def _main(arguments: list[str]) -> None:
    named = [name for name in COMMANDS if name in arguments[:1]]
    try:
        app = load(named or COMMANDS)
        if "--ray" in arguments:
            from captioner.cli.cluster import with_address

            arguments = with_address(arguments)
        app(args=arguments, prog_name="captioner")
    except SystemExit as end:
        if end.code == UsageError.exit_code and arguments:
            typer.echo(_example(*named or ["caption"]), err=True)
        if end.code == INTERRUPTED:
            typer.echo("captioner: interrupted", err=True)
        raise
    except ModuleNotFoundError as error:
        if missing := missing_package(error, " ".join(["captioner", *named])):
            raise missing from None
        raise


def load(names: Sequence[str]) -> typer.Typer:
    """Return an app of these commands. A command's file is imported only if it is among them."""
    app = typer.Typer(
        help="Caption images and translate text: generate, train, evaluate and compare.",
        epilog=_example(names[0]),
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback(help=app.info.help)(_options)
    for name in names:
        module = importlib.import_module(f"captioner.cli.{name}")
        command = app.command(name, epilog=_example(name), cls=SectionedCommand)
        command(getattr(module, name))
    return app


def _print_version(wanted: bool) -> None:
    if wanted:
        from captioner import __version__

        typer.echo(f"captioner {__version__}")
        raise typer.Exit


def _options(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version and exit."
        ),
    ] = False,
) -> None:
    """Accept the options that precede a command."""


def _example(name: str) -> str:
    module = importlib.import_module(f"captioner.cli.{name}")
    return f"Example: {module.EXAMPLE}"
