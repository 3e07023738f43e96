"""Run the command line: `captioner`, or `python -m captioner`."""

import sys
from traceback import walk_tb


def main() -> None:
    """Run a command. A package that is missing or too old is one line on stderr."""
    try:
        from captioner.cli.app import main as run

        run()
    except Exception as error:
        if _is_of_loading(error):
            from captioner.requirements import missing_package, outdated_package

            missing = isinstance(error, ImportError) and missing_package(error, "captioner")
            if problem := missing or outdated_package():
                print(f"captioner: {problem}", file=sys.stderr)
                sys.exit(1)
        raise


def _is_of_loading(error: Exception) -> bool:
    """Return whether an import failed, or typer, which fails at types that it does not know."""
    frames = [frame for frame, _ in walk_tb(error.__traceback__)]
    return (
        isinstance(error, ImportError)
        or any(frame.f_code.co_name == "<module>" for frame in frames)  # of a module as it loads
        or frames[-1].f_globals.get("__name__", "").startswith("typer.")
    )


if __name__ == "__main__":
    main()
