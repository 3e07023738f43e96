"""The same as `captioner caption`: python scripts/caption.py --help."""

import sys

from captioner.cli.app import main

main(["caption", *sys.argv[1:]])
