"""Run the command line: `captioner`, or `python -m captioner`."""

import sys


def main() -> None:
    """Run a command. A package that is missing or too old is one line on stderr."""
    try:
        from captioner.cli.app import main as run

        run()
    except Exception:
        from captioner.cli.requirements import unmet_requirement

        if problem := unmet_requirement():
            print(f"captioner: {problem}", file=sys.stderr)
            sys.exit(1)
        raise


if __name__ == "__main__":
    main()
