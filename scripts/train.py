"""The same as `captioner train`: python scripts/train.py --help."""

import sys

from captioner.cli.app import main

main(["train", *sys.argv[1:]])
