"""Run the command line as `python -m captioner`."""

from captioner.cli.app import main

main()
