"""The same as `captioner evaluate`: python scripts/evaluate.py --help."""

import sys

from captioner.cli.app import main

main(["evaluate", *sys.argv[1:]])
