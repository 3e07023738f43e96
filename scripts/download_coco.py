"""Fetch COCO's captions and images, once and whole: the same command goes on where it was stopped.

A file is in its place only when it is complete: downloads grow as `.part`, and every file of an archive is checked
against the archive's CRC before it is renamed. COCO publishes no checksums, so sizes and CRCs are all there is to check.
Needs nothing but the standard library, typer and rich.
"""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import time
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPException, HTTPResponse
from pathlib import Path, PurePosixPath
from typing import Annotated
from urllib.error import HTTPError
from urllib.parse import urlparse
from urllib.request import Request, urlopen

import typer
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from captioner.errors import CaptionerError, UsageError

OFFICIAL = "http://images.cocodataset.org"  # plain http: the certificate there is for another name
KARPATHY = "https://cs.stanford.edu/people/karpathy/deepimagesent/caption_datasets.zip"

TIMEOUT = 30.0  # seconds without a byte
PAUSES = (1.0, 2.0, 4.0, 8.0, 16.0)  # seconds before each new attempt; counted afresh whenever bytes have come
CHUNK = 1 << 20
PASSING = {408, 425, 429}  # these, like all of 500 to 599, are worth another attempt

console = Console(stderr=True)
app = typer.Typer(add_completion=False)


@dataclass(frozen=True)
class Archive:
    """One zip file to fetch, and what of it goes where."""

    url: str
    members: re.Pattern[str]  # the files wanted, by their names in the archive
    target: Path  # the folder that they are put in, without the folders of the archive
    complete: Callable[[], bool]  # whether all of them are there

    @property
    def path(self) -> Path:
        """Where the zip lies until it is unpacked."""
        return self.target.parent / PurePosixPath(urlparse(self.url).path).name if False else self.target
